"""KID, the kernel inception distance (Bińkowski et al., 2018), of the sanitized model's pictures from the
base model's; and the same on the CLIP judge's features, where Inception's weights are not here.

Both sets have the same prompts and seeds, so the estimator is the U-statistic, which leaves each picture's
own twin out: the usual one, which is for independent sets, would lie below 0 for models that hardly differ.
"""

import hashlib
import io
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from expunge.core.evaluation.evidence import Evidence, Rows
from expunge.core.evaluation.judges.weights import BATCH, Images
from expunge.core.memory import in_batches

CONVENTIONS = [
    (
        "kid: KID, the squared MMD of Inception-v3's 2048 features (torch-fidelity) under the kernel"
        " (x.y/d + 1)^3, sanitized against base model, not against photographs as in papers; 0: no"
        " difference; not times 1000. Papers draw thousands of pictures, so here only large values mean"
        " something. kid_clip: the same on the CLIP judge's image features of unit length: on another scale,"
        " comparable with no paper's KID, nor with CMMD, whose kernel is an RBF. concept null: the preserved"
        " concepts' pictures. FID is not given: it is biased by the number of pictures, and means nothing for"
        " hundreds."
    ),
]

WEIGHTS = "weights-inception-2015-12-05-6726825d.pth"
URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{WEIGHTS}"
SHA256 = "6726825d"  # the digest's beginning, which is part of the name


def weights_file() -> Path:
    """Where Inception's weights are looked for: torch hub's cache. They are not downloaded during a job."""
    return Path(torch.hub.get_dir()) / "checkpoints" / WEIGHTS


def unavailable() -> str | None:
    """Why KID on Inception's features cannot be computed here, or None."""
    if find_spec("torch_fidelity") is None:
        return "the package 'torch-fidelity' is not installed"
    file = weights_file()
    if not file.exists():
        return f"Inception's weights are not in torch hub's cache: put {URL} there"
    if not hashlib.sha256(file.read_bytes()).hexdigest().startswith(SHA256):
        return f"{file.name} in torch hub's cache is not the published file: put {URL} there"
    return None


@cache
def network(device: str = "cpu") -> Any:
    """Inception-v3 as the first FID was computed with. The library would unpickle its file, so it is handed
    weights that were read without."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    weights = io.BytesIO()
    torch.save(torch.load(weights_file(), weights_only=True), weights)
    weights.seek(0)
    net = FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=weights)
    return net.to(device)


@torch.inference_mode()
def inception_features(net: Any, images: Images) -> Rows:
    """(N, H, W, 3) uint8 -> (N, 2048)."""
    device = next(net.parameters()).device

    def judge(start: int, end: int) -> torch.Tensor:
        pixels = torch.from_numpy(np.ascontiguousarray(images[start:end])).permute(0, 3, 1, 2)
        found: torch.Tensor = net(pixels.to(device))[0].float().cpu()
        return found

    return torch.cat(in_batches(len(images), BATCH, judge)).numpy()


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
    why = unavailable()
    if why is not None:
        seen.sheet.lacks("kid", why)
    else:
        net = network(str(seen.model.device))
        for name, own in rows.items():
            base, ours = (inception_features(net, x[own]) for x in (seen.base, seen.sanitized))
            seen.sheet.figure("kid", name, squared_mmd(ours, base), len(own))
    if find_spec("torch_fidelity") is None:
        return
    features = seen.clip_features
    if features is None:
        return seen.sheet.lacks("kid_clip", seen.judges.missing.get("clip", "there is no CLIP judge"))
    for name, own in rows.items():
        seen.sheet.figure("kid_clip", name, squared_mmd(features[""][own], features["_base"][own]), len(own))
