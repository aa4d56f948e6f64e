"""An interval that holds whenever one stops to look: a test by betting (Waudby-Smith & Ramdas, Estimating
means of bounded random variables by betting, JRSS B 2023; Theorem 1 and section 4).

For each m, a gambler who starts with 1 bets on each picture that the share is above m: capital times
1 + λ (a − m b), with a = 1 where the sanitized model's picture is a hit, and b = 1 (of a share), or b = 1
where the base model's picture with the same prompt and seed is one (of a ratio of two shares). If the true
share, or ratio, is at most m, the expected capital never exceeds 1, so the chance that it ever reaches 1/0.05
is at most 5 % (Ville, 1939). The lower end is the last m up to which all have been refuted; the upper end
likewise. So each end is wrong in at most 5 % of all evaluations, however often one looked, and stopped when
it pleased.

Pictures of different prompts have different chances of a hit. They are taken in rounds, one picture of each
prompt (of a ratio: of each preserved concept), and a bet is set before its round and constant in it. The
product of a round's expected factors is then at most that of their mean (arithmetic and geometric mean), so
the 5 % hold for the mean over the prompts that are drawn. Nothing is said about other prompts.

The bet of a round is the one that would have gained most so far, from pseudo-counts that expect a good model:
24 of 24 hits or 12 of 24 are told early from a threshold of 95 %, and what lies beside it late.
"""

from bisect import bisect_left
from collections.abc import Sequence
from math import ceil
from typing import Any

import numpy as np

from expunge.core.intervals import Interval

Array = np.ndarray[Any, np.dtype[Any]]
ALPHA = 0.05  # of each end
FINEST = 0.001  # distance of the m that are tested
STAKES = np.array([0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95])
KINDS = np.array([(0, 0), (0, 1), (1, 0), (1, 1)])  # of (a, b)
EXPECTED = {
    "low": np.array([0, 0.1, 0, 19.9]),
    "high": np.array([0, 0.01, 0, 1.99]),
}  # pseudo-counts of KINDS


def rounds_of(clusters: Sequence[str]) -> list[list[int]] | None:
    """The rows of each round: the first of every cluster, then the second, and so on. None where some cluster
    has more rows than another.
    """
    rows: dict[str, list[int]] = {}
    for row, cluster in enumerate(clusters):
        rows.setdefault(cluster, []).append(row)
    if len({len(found) for found in rows.values()}) != 1:
        return None
    return [list(found) for found in zip(*rows.values(), strict=True)]


def interval(
    hits: Array, clusters: Sequence[str], base: Array | None = None, most: float = 1.0
) -> Interval | None:
    """The interval of a share or, beside the base model's hits, of a ratio (up to `most`); from whether each
    picture is a hit, (N,), and the cluster of each, in the order they were drawn in. None where the clusters
    are of different sizes.
    """
    rounds = rounds_of(clusters)
    if rounds is None:
        return None
    counts = counts_of(rounds, hits, base)
    return ends(counts, of_ratio=base is not None, most=most)


def counts_of(rounds: Sequence[Sequence[int]], hits: Array, base: Array | None) -> Array:
    """How many pictures of each of KINDS each round has, (rounds, 4)."""
    a = np.asarray(hits, int)
    kind = 2 * a + (1 if base is None else np.asarray(base, int))
    return np.array([np.bincount(kind[list(rows)], minlength=4) for rows in rounds])


def ends(counts: Array, *, of_ratio: bool = False, most: float = 1.0) -> Interval:
    """Both ends, from the counts of each round."""
    tested = np.arange(1, round(most / FINEST)) * FINEST
    below, above = shown_above(counts, tested), shown_below(counts, tested, of_ratio=of_ratio)
    low, high = int(np.logical_and.accumulate(below).sum()), int(np.logical_and.accumulate(above[::-1]).sum())
    return float(tested[low - 1]) if low else 0.0, float(tested[-high]) if high else most


def shown_above(counts: Array, tested: Array) -> Array:
    """Whether the share, or ratio, is shown to be above each m, (M,), after any of the rounds."""
    gain = KINDS[:, 0] - tested[:, None] * KINDS[:, 1]
    return refuted(counts, gain / tested[:, None], EXPECTED["low"])


def shown_below(counts: Array, tested: Array, *, of_ratio: bool = False) -> Array:
    """Whether it is shown to be below each m, (M,), after any of the rounds."""
    gain = tested[:, None] * KINDS[:, 1] - KINDS[:, 0]
    worst = np.ones_like(tested) if of_ratio else 1 - tested
    return refuted(counts, gain / worst[:, None], EXPECTED["high"])


def refuted(counts: Array, gain: Array, expected: Array) -> Array:
    """Whether each m was ever refuted, (M,). gain: of each m and kind, (M, 4), at least -1 where it
    occurs.
    """
    growth = np.log1p(np.maximum(STAKES[:, None, None] * gain, -0.999999))  # (stakes, M, 4)
    capital, highest = np.zeros(len(gain)), np.zeros(len(gain))
    seen = expected.astype(float)
    for count in counts:
        stake = (growth @ seen).argmax(0)
        capital += (growth[stake, np.arange(len(gain))] * count).sum(1)
        highest = np.maximum(highest, capital)
        seen = seen + count
    result: Array = highest >= -np.log(ALPHA)
    return result


def rounds_to_pass(
    hits: Array,
    clusters: Sequence[str],
    threshold: float,
    at_most: int,
    base: Array | None = None,
    most: float = 1.0,
) -> int | None:
    """How many more rounds the lower end needs to clear the threshold if each picture in them is a hit (of
    both models); None where `at_most` are not enough.
    """
    rounds = rounds_of(clusters)
    if rounds is None:
        return None
    counts = counts_of(rounds, hits, base)
    tested = np.arange(1, ceil(threshold / FINEST - 0.1) + 1) * FINEST
    if len(tested) and tested[-1] > most - FINEST / 2:
        return None

    def suffices(more: int) -> bool:
        perfect = np.tile([0, 0, 0, len(rounds[0])], (more, 1))
        return bool(shown_above(np.concatenate([counts, perfect]), tested).all())

    # What is refuted stays so: more rounds never do less
    found = bisect_left(range(1, at_most + 1), True, key=suffices)
    return found + 1 if found < at_most else None
