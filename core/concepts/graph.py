"""The concept graph's statistics and its fit (AGE, Bui et al., ICLR 2025: locality, asymmetry, abnormal
concepts).

Row i, column j: what erasing concept i did to concept j. All matrices are (erased, nodes); the erased
concepts are the first nodes.
"""

import itertools
from typing import Any

import numpy as np

from expunge.core.impact import BANDS, band, features
from expunge.core.intervals import of_mean

STRONG = 15.0  # points of CLIP score from which a drop is plainly no noise of two pictures
Array = np.ndarray[Any, np.dtype[np.float64]]


def ranks(values: Array) -> Array:
    """Ranks, ties sharing their mean."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return ((last - counts + last - 1) / 2)[inverse]


def spearman(a: Array, b: Array) -> float:
    """Rank correlation; 0 where one of the two is constant."""
    x, y = ranks(a), ranks(b)
    return 0.0 if x.std() == 0 or y.std() == 0 else float(np.corrcoef(x, y)[0, 1])


def others(erased: int, nodes: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Every cell but those of a concept on itself, (erased, nodes)."""
    mask: np.ndarray[Any, np.dtype[np.bool_]] = ~np.eye(erased, nodes, dtype=bool)
    return mask


def statistics(drop: Array, distance: Array, g0: Array) -> dict[str, Any]:
    """Locality, asymmetry and abnormality, each as the seeds claim it and as it was measured."""
    mask, n = others(*drop.shape), len(drop)

    # Locality: the mean drop in each band of distance.
    by_band = []
    edges = [0.0, *BANDS]
    for low, high in itertools.pairwise(edges):
        cells = mask & (distance >= low) & (distance < high)
        if cells.any():
            found = {
                "edges": int(cells.sum()),
                "mean_drop": float(drop[cells].mean()),
                "ci": of_mean(drop[cells]),
            }
            by_band.append({"from": low, "to": None if np.isinf(high) else high, **found})
    # Asymmetry: the drops of each pair of erased concepts, one way and the other.
    pairs = [(i, j) for i in range(n) for j in range(i)]
    one, two = np.array([drop[i, j] for i, j in pairs]), np.array([drop[j, i] for i, j in pairs])
    strong = np.maximum(one, two) >= STRONG
    # Abnormality: how much each node suffers on the mean, of all erasures and of far ones alone.
    column = np.array([drop[mask[:, j], j].mean() for j in range(drop.shape[1])])
    far = np.full(drop.shape[1], np.nan)
    for j in range(drop.shape[1]):
        rows = mask[:, j] & (distance[:, j] >= BANDS[1])
        if rows.any():
            far[j] = drop[rows, j].mean()
    return {
        "locality": {
            "rank_correlation": spearman(-distance[mask], drop[mask]),
            "rank_correlation_of_each": [spearman(-distance[i][mask[i]], drop[i][mask[i]]) for i in range(n)],
            "bands": by_band,
        },
        "asymmetry": {
            "pairs": len(pairs),
            "rank_correlation": spearman(one, two),
            "mean_difference": float(np.abs(one - two).mean()),
            "strong_pairs": int(strong.sum()),
            "strong_mean_difference": float(np.abs(one - two)[strong].mean()) if strong.any() else 0.0,
            "strong_one_way": int((np.minimum(one, two)[strong] < STRONG / 3).sum()),
        },
        "abnormal": {
            "rank_correlation_with_g0": spearman(-g0, column),
            "rank_correlation_with_g0_far": spearman(-g0[~np.isnan(far)], far[~np.isnan(far)]),
            "mean_drop_of_each": column.round(2).tolist(),
        },
    }


def fit(drop: Array, distance: Array, g0: Array) -> dict[str, Any]:
    """Least squares of the drop on `features`, with errors held out by leaving out one erased concept at a
    time.

    `errors`: for each band of distance the 10 % and 90 % quantiles of what was measured minus what was
    predicted.
    """
    mask = others(*drop.shape)
    row, column = np.nonzero(mask)
    x = np.array([features(distance[i, j], g0[j]) for i, j in zip(row, column, strict=True)])
    y = drop[mask]
    held = np.zeros_like(y)
    for i in range(len(drop)):
        left = row == i
        held[left] = x[left] @ np.linalg.lstsq(x[~left], y[~left], rcond=None)[0]
    bands = np.array([band(d) for d in distance[mask]])
    errors = []
    for k in range(len(BANDS)):
        low, high = np.quantile((y - held)[bands == k], (0.1, 0.9)) if (bands == k).any() else (0.0, 0.0)
        # The prediction itself lies inside
        errors.append([round(min(0.0, float(low)), 4), round(max(0.0, float(high)), 4)])
    hits = total = 0
    for i in range(len(drop)):
        mine = row == i
        worst = set(np.argsort(-y[mine], kind="stable")[:3]) & set(np.flatnonzero(y[mine] > 0))
        hits, total = hits + len(worst & set(np.argsort(-held[mine], kind="stable")[:5])), total + len(worst)
    spread = float(((y - y.mean()) ** 2).sum())
    return {
        "weights": np.linalg.lstsq(x, y, rcond=None)[0].round(5).tolist(),
        "errors": errors,
        "held_out": {
            "edges": len(y),
            "mean_absolute_error": float(np.abs(y - held).mean()),
            "mean_absolute_error_of_the_mean": float(np.abs(y - y.mean()).mean()),
            "r2": 1 - float(((y - held) ** 2).sum()) / spread if spread else 0.0,
            "rank_correlation": spearman(held, y),
            "worst_three_among_first_five": hits / total if total else 0.0,
        },
    }
