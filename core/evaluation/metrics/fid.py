"""FID, the Fréchet inception distance (Heusel et al., 2017), of the sanitized model's pictures from the base
model's. It is biased by the number of pictures (Chong and Forsyth, 2020), and its covariance is singular
below 2048 of them: so it is given only from there on.
"""

import numpy as np
import torch

from expunge.core.errors import CoreError
from expunge.core.evaluation.evidence import Evidence, Rows

CONVENTIONS = [
    (
        "fid: FID on Inception-v3's 2048 features (torch-fidelity), the preserved concepts' pictures of the"
        " sanitized model against the base model's: HUB's FID_SD, not FID against COCO's photographs as in"
        " most tables. Only of 2048 pictures or more, with Inception's weights; it still falls with more"
        " pictures, so compare equal n. Of fewer pictures: kid."
    ),
]

LEAST = 2048  # pictures: as many as Inception has features


def distance(a: Rows, b: Rows) -> float:
    """The Fréchet distance of two sets of features, (N, D) and (M, D)."""
    from torch_fidelity import metric_fid as library

    stats = [library.fid_features_to_statistics(torch.from_numpy(x.astype(np.float64))) for x in (a, b)]
    return float(library.fid_statistics_to_metric(*stats, verbose=False)[library.KEY_METRIC_FID])


def measure(seen: Evidence) -> None:
    """Of the preserved pictures together."""
    rows = np.flatnonzero(seen.kept)
    if len(rows) < LEAST:
        return None
    try:
        inception = seen.inception()
    except CoreError as e:
        return seen.sheet.lacks("fid", e.message)
    ours, base = (inception.features(x[rows]).numpy() for x in (seen.sanitized, seen.base))
    return seen.sheet.figure("fid", None, distance(ours, base), len(rows))
