"""KID, the kernel inception distance (Bińkowski et al., 2018), of the sanitized model's pictures from the
base model's; and the same on the CLIP judge's features, which need no Inception.

Both sets have the same prompts and seeds, so the estimator is the U-statistic, which leaves each picture's
own twin out: the usual one, which is for independent sets, would lie below 0 for models that hardly differ.
"""

from importlib.util import find_spec

import numpy as np

from expunge.core.errors import CoreError
from expunge.core.evaluation.evidence import Evidence, Rows

CONVENTIONS = [
    (
        "kid: KID, the squared MMD of Inception-v3's 2048 features (torch-fidelity) under the kernel"
        " (x.y/d + 1)^3, sanitized against base model, not against photographs as in papers; 0: no"
        " difference; not times 1000. Papers draw thousands of pictures, so here only large values mean"
        " something. kid_clip: the same on the CLIP judge's image features of unit length: on another scale,"
        " comparable with no paper's KID, nor with CMMD, whose kernel is an RBF. concept null: the preserved"
        " concepts' pictures."
    ),
]


def squared_mmd(a: Rows, b: Rows) -> float:
    """MMD^2 of features (N, D), rows paired, N of 2 or more: the U-statistic; may be below 0."""
    from torch_fidelity.metric_kid import kernel_poly, mmd2

    def kernel(x: Rows, y: Rows) -> Rows:
        found: Rows = kernel_poly(
            x, y, kid_kernel_poly_degree=3, kid_kernel_poly_gamma=None, kid_kernel_poly_coef0=1
        )
        return found

    a, b = a.astype(np.float64), b.astype(np.float64)
    return float(mmd2(kernel(a, a), kernel(a, b), kernel(b, b), mmd_est="u-statistic"))


def measure(seen: Evidence) -> None:
    """Of the preserved pictures together, and of each erased concept's."""
    rows: dict[str | None, Rows] = {None: np.flatnonzero(seen.kept)}
    rows |= {name: seen.rows(name) for name in seen.names}
    rows = {name: own for name, own in rows.items() if len(own) > 1}
    try:
        inception = seen.inception()
    except CoreError as e:
        seen.sheet.lacks("kid", e.message)
    else:
        for name, own in rows.items():
            base, ours = (inception.features(x[own]).numpy() for x in (seen.base, seen.sanitized))
            seen.sheet.figure("kid", name, squared_mmd(ours, base), len(own))
    if find_spec("torch_fidelity") is None:
        return
    features = seen.clip_features
    if features is None:
        return seen.sheet.lacks("kid_clip", seen.judges.missing.get("clip", "there is no CLIP judge"))
    for name, own in rows.items():
        seen.sheet.figure("kid_clip", name, squared_mmd(features[""][own], features["_base"][own]), len(own))
