"""95 % intervals that know which pictures belong together.

Pictures of one prompt, and of one concept, are more alike than pictures of different ones. They form
clusters: prompts where one concept is measured, concepts where several are (the outermost level carries the
levels in it: Davison & Hinkley, Bootstrap Methods, 1997, section 3.8).

- Shares: Wilson's interval at the effective sample size, n over the design effect. The design effect is the
  variance that a bootstrap over the clusters has, in closed form, over the variance of independent pictures,
  raised by t² / z² for few clusters (Korn & Graubard, 1998; Dean & Pagano, 2015), and at least 1: never
  narrower than Wilson's own, and as meaningful at 0 and n of n.
- Means and ratios: a seeded percentile bootstrap over the clusters, its percentiles moved outwards for few
  clusters (Hesterberg, 2015). A ratio's interval also reaches as far as the interval of the share that was
  kept, so that it has a width where nothing was lost.
"""

from collections.abc import Callable, Sequence
from math import pi, sqrt, tan
from statistics import NormalDist
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
Interval = tuple[float, float]
Z = 1.959963984540054  # of 95 %, both ends
ONE_END = 1.6448536269514722  # of 95 % at either end, each by itself
RESAMPLES = 2000


def wilson(successes: float, n: float, z: float = Z) -> Interval:
    """Wilson's score interval (1927) of a share; meaningful at 0 and n too. Both may be effective numbers."""
    if n == 0:
        return 0.0, 1.0
    p = successes / n
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    # Rounding must not push p out
    return min(p, max(0.0, centre - half)), max(p, min(1.0, centre + half))


def of_share(hits: Array, clusters: Sequence[str] | None = None, z: float = Z) -> Interval:
    """Interval of a share, from whether each picture is a hit, (N,), and the cluster of each picture. Without
    clusters, or with one alone, pictures count as independent.
    """
    hits = np.asarray(hits, float)
    n = len(hits) / design_effect(hits, clusters, z)
    return wilson(float(hits.mean()) * n if len(hits) else 0.0, n, z)


def design_effect(hits: Array, clusters: Sequence[str] | None, z: float = Z) -> float:
    """How many times as much a share varies as of independent pictures; at least 1."""
    index, count = numbered(clusters, len(hits))
    if count < 2 or hits.all() or not hits.any():
        return 1.0
    p, n = hits.mean(), len(hits)
    off = np.bincount(index, hits - p)
    between = count / (count - 1) * (off**2).sum() / n**2
    few = student(z, count - 1) / student(z, n - 1)
    return max(1.0, float(between / (p * (1 - p) / n)) * few**2)


def student(z: float, df: int) -> float:
    """Student's t at the probability where a normal variable has z: exact for one and two degrees of freedom,
    else Fisher and Cornish's expansion (1960), within 0.2 %.
    """
    if df == 1:
        return tan(pi * (NormalDist().cdf(z) - 0.5))
    if df == 2:
        inner = 2 * NormalDist().cdf(z) - 1
        return inner * sqrt(2 / (1 - inner**2))
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return float(z + sum(term / df**k for k, term in enumerate(terms, start=1)))


def numbered(clusters: Sequence[str] | None, n: int) -> tuple[Array, int]:
    """The number of each picture's cluster, (N,), and how many there are. None, or one alone: each picture is
    its own.
    """
    names = dict.fromkeys(clusters or ())
    if len(names) < 2:
        return np.arange(n), n
    place = {name: i for i, name in enumerate(names)}
    return np.array([place[name] for name in clusters or ()]), len(names)


def bootstrap(
    statistic: Callable[..., Array],
    *samples: Array,
    clusters: Sequence[str] | None = None,
    z: float = Z,
) -> Interval:
    """Percentile bootstrap; `statistic` maps the resampled sums over clusters (R,) of each sample, and of the
    number of rows, to (R,). Whole clusters are resampled, with all their rows.
    """
    index, count = numbered(clusters, len(samples[0]))
    sums = [np.bincount(index, np.asarray(s, float)) for s in (*samples, np.ones(len(samples[0])))]
    drawn = np.random.default_rng(0).integers(count, size=(RESAMPLES, count))
    outer = 0.0
    if count > 1:
        outer = 100 * NormalDist().cdf(-sqrt(count / (count - 1)) * student(z, count - 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        found = statistic(*(s[drawn].sum(1) for s in sums))
    low, high = np.nanpercentile(found, [outer, 100 - outer])
    return float(low), float(high)


def of_mean(values: Array, clusters: Sequence[str] | None = None) -> Interval:
    """Interval of a mean; a single value has no spread to resample and is its own interval."""
    return bootstrap(lambda total, n: total / n, values, clusters=clusters)


def of_ratio(
    numerator: Array, denominator: Array, clusters: Sequence[str] | None = None, z: float = Z
) -> Interval:
    """Interval of mean(numerator) / mean(denominator) of hits, (N,) bool each, paired row by row (the same
    prompt and seed).
    """
    a, b = np.asarray(numerator, bool), np.asarray(denominator, bool)
    low, high = bootstrap(
        lambda above, below, _: above / np.where(below > 0, below, np.nan), a, b, clusters=clusters, z=z
    )
    kept = a[b]
    least, most = of_share(
        kept, [c for c, hit in zip(clusters, b, strict=True) if hit] if clusters else None, z
    )
    value, share = a.sum() / b.sum(), kept.mean()
    return min(low, float(value - (share - least))), max(high, float(value + (most - share)))
