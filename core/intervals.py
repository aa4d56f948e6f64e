"""95 % intervals: Wilson's for shares, a seeded percentile bootstrap for means and ratios."""

from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
Interval = tuple[float, float]
Z = 1.959963984540054
RESAMPLES = 2000


def wilson(successes: int, n: int) -> Interval:
    """Wilson's score interval (1927) of a share; meaningful at 0 and n too."""
    if n == 0:
        return 0.0, 1.0
    p = successes / n
    centre = (p + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * np.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
    # Rounding must not push p out
    return min(p, max(0.0, float(centre - half))), max(p, min(1.0, float(centre + half)))


def bootstrap(statistic: Callable[..., Array], *samples: Array) -> Interval:
    """Percentile bootstrap; `statistic` maps resamples (R, n) of each paired sample to (R,). Rows are
    resampled together.
    """
    n = len(samples[0])
    index = np.random.default_rng(0).integers(n, size=(RESAMPLES, n))
    low, high = np.nanpercentile(statistic(*(np.asarray(s)[index] for s in samples)), [2.5, 97.5])
    return float(low), float(high)


def of_mean(values: Array) -> Interval:
    """Interval of a mean; a single value has no spread to resample and is its own interval."""
    return bootstrap(lambda x: x.mean(1), values)


def of_ratio(numerator: Array, denominator: Array) -> Interval:
    """Interval of mean(numerator) / mean(denominator), paired row by row (the same prompt and seed)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return bootstrap(
            lambda a, b: a.mean(1) / np.where(b.any(1), b.mean(1), np.nan),
            numerator.astype(float),
            denominator.astype(float),
        )
