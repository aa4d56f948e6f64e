"""Intervals hold what they promise where pictures of one prompt are alike."""

import numpy as np
import pytest
from scipy import stats

from expunge.core import intervals

RUNS = 300


def correlated(generator, p, clusters, each, correlation):
    """Hits (clusters, each) that are alike within a cluster: a beta-binomial."""
    if correlation:
        size = 1 / correlation - 1
        chances = generator.beta(p * size, (1 - p) * size, clusters)
    else:
        chances = np.full(clusters, p)
    return generator.random((clusters, each)) < chances[:, None]


def covered(interval, value):
    return interval[0] <= value <= interval[1]


@pytest.mark.parametrize(
    ("p", "clusters", "each", "correlation"),
    [(0.8, 6, 12, 0.3), (0.5, 6, 11, 0.3), (0.8, 10, 8, 0.3), (0.95, 24, 6, 0.2)],
)
def test_shares_of_alike_pictures_are_covered_where_wilsons_interval_is_not_enough(
    p, clusters, each, correlation
):
    generator = np.random.default_rng(0)
    names = np.repeat([f"prompt {i}" for i in range(clusters)], each).tolist()
    ours = wilsons = 0
    for _ in range(RUNS):
        hits = correlated(generator, p, clusters, each, correlation).ravel()
        ours += covered(intervals.of_share(hits, names), p)
        wilsons += covered(intervals.wilson(hits.sum(), len(hits)), p)
    assert ours / RUNS >= 0.91
    assert wilsons / RUNS < 0.87


@pytest.mark.parametrize("p", [0.5, 0.9])
def test_shares_of_independent_pictures_are_covered_and_not_much_wider(p):
    generator = np.random.default_rng(1)
    names = np.repeat([f"prompt {i}" for i in range(24)], 4).tolist()
    found = 0
    widths = []
    for _ in range(RUNS):
        hits = correlated(generator, p, 24, 4, 0).ravel()
        low, high = intervals.of_share(hits, names)
        plain = intervals.wilson(hits.sum(), len(hits))
        assert low <= plain[0] + 1e-12
        assert high >= plain[1] - 1e-12
        found += covered((low, high), p)
        widths.append((high - low) / (plain[1] - plain[0]))
    assert found / RUNS >= 0.93
    assert np.mean(widths) < 1.15


def test_a_ratio_is_covered_where_pictures_of_a_concept_are_alike():
    generator = np.random.default_rng(2)
    names = np.repeat([f"concept {i}" for i in range(24)], 4).tolist()
    ours = single = 0
    for _ in range(120):
        base = generator.random((24, 4)) < 0.95
        kept = base & correlated(generator, 0.9, 24, 4, 0.4)
        ours += covered(intervals.of_ratio(kept.ravel(), base.ravel(), names), 0.9)
        single += covered(intervals.of_ratio(kept.ravel(), base.ravel()), 0.9)
    assert ours / 120 >= 0.9
    assert ours > single


def test_none_and_all_of_a_few_have_wilsons_width_whatever_the_clusters():
    names = ["a", "a", "a", "b", "b", "b", "c", "c"]
    assert intervals.of_share(np.ones(8, bool), names) == intervals.wilson(8, 8)
    assert intervals.of_share(np.zeros(8, bool), names) == intervals.wilson(0, 8)
    low, high = intervals.of_ratio(np.ones(8, bool), np.ones(8, bool), names)
    assert (low, high) == (pytest.approx(intervals.wilson(8, 8)[0]), 1.0)


def test_half_of_the_prompts_lost_is_told_from_a_threshold_and_one_prompt_alone_widens():
    names = np.repeat(list("abcdef"), 4).tolist()
    low, high = intervals.of_share(np.repeat([True, False] * 3, 4), names)
    assert (low < 0.2, 0.8 < high < 0.95) == (True, True)
    gathered = np.ones(24, bool)
    gathered[:4] = False
    spread = np.ones(24, bool)
    spread[::6] = False
    assert intervals.of_share(gathered, names)[0] < intervals.of_share(spread, names)[0] - 0.1


@pytest.mark.parametrize("df", [1, 2, 3, 5, 23, 200])
def test_students_t_agrees_with_scipys(df):
    assert intervals.student(intervals.Z, df) == pytest.approx(stats.t.ppf(0.975, df), rel=2e-3)
    assert intervals.student(intervals.ONE_END, df) == pytest.approx(stats.t.ppf(0.95, df), rel=2e-3)
