"""A test by betting is wrong no more often than it says, however often one looks."""

import numpy as np
import pytest

from expunge.core import intervals
from expunge.core.evaluation import sequential

PROMPTS = 6
RUNS = 400


def decide(hits, threshold, base=None, first=4, clusters=PROMPTS, most=1.0):
    """Look after each round from the first on; (decision, pictures seen). hits: (rounds, clusters)."""
    names = [f"prompt {i}" for i in range(clusters)]
    for rounds in range(first, len(hits) + 1):
        seen = None if base is None else base[:rounds].ravel()
        low, high = sequential.interval(hits[:rounds].ravel(), names * rounds, seen, most)
        if low >= threshold:
            return "passed", rounds * clusters
        if high < threshold:
            return "failed", rounds * clusters
    return "not shown", hits.size


def shown_often(chances, threshold, generator, runs=RUNS, rounds=20):
    """How often the share is shown to be above the threshold, and below it, by one who looks after each
    round.
    """
    above = below = 0
    for _ in range(runs):
        hits = generator.random((rounds, PROMPTS)) < chances
        counts = counts_of(hits, np.ones_like(hits))
        above += sequential.shown_above(counts, np.array([threshold]))[0]
        below += sequential.shown_below(counts, np.array([threshold]))[0]
    return above / runs, below / runs


def counts_of(hits, base):
    rows = np.arange(hits.size).reshape(hits.shape)
    return sequential.counts_of(rows, hits.ravel(), base.ravel())


@pytest.mark.parametrize(
    ("chances", "threshold"),
    [
        (0.95, 0.95),
        (np.array([0.7, 1, 1, 1, 1, 1]), 0.95),  # one prompt brings it back, on the whole as often
        (0.7, 0.7),
    ],
)
def test_what_is_at_the_threshold_is_hardly_ever_shown_to_be_on_a_side_of_it(chances, threshold):
    above, below = shown_often(chances, threshold, np.random.default_rng(0))
    assert above <= 0.05
    assert below <= 0.05
    assert above + below > 0  # else it could not tell anything from it either


def test_looking_again_and_again_at_wilsons_interval_would_be_wrong_more_often():
    """The test of the tests above: a method that is not valid is caught by them."""
    generator = np.random.default_rng(2)
    wrong = 0
    for _ in range(RUNS):
        total = np.cumsum(generator.random(120) < 0.7)
        wrong += any(intervals.wilson(total[n - 1], n, intervals.ONE_END)[0] >= 0.7 for n in range(6, 121))
    assert wrong / RUNS > 0.1


def test_a_ratio_at_the_threshold_is_hardly_ever_shown_to_be_on_a_side_of_it():
    generator = np.random.default_rng(3)
    above = below = 0
    for _ in range(RUNS):
        base = generator.random((10, 24)) < 0.95
        counts = counts_of(base & (generator.random((10, 24)) < 0.9), base)
        above += sequential.shown_above(counts, np.array([0.9]))[0]
        below += sequential.shown_below(counts, np.array([0.9]), of_ratio=True)[0]
    assert above / RUNS <= 0.05
    assert below / RUNS <= 0.05


def test_a_flawless_erasure_passes_after_66_pictures_and_none_after_24():
    assert decide(np.ones((20, PROMPTS), bool), 0.95) == ("passed", 66)
    assert decide(np.zeros((20, PROMPTS), bool), 0.95) == ("failed", 24)
    assert shown_often(0.995, 0.95, np.random.default_rng(4), 200, 32)[0] >= 0.8
    assert shown_often(0.8, 0.95, np.random.default_rng(5), 200)[1] >= 0.8


def test_two_rounds_of_preserved_pictures_pass_where_none_was_lost():
    base = np.ones((5, 24), bool)
    base[0, 3] = base[1, 7] = False
    assert decide(base, 0.9, base, first=1, clusters=24, most=2.0) == ("passed", 48)
    assert decide(np.zeros_like(base), 0.9, base, first=2, clusters=24, most=2.0)[0] == "failed"


def test_the_next_look_is_as_soon_as_it_could_pass():
    names = [f"prompt {i}" for i in range(PROMPTS)] * 4
    assert sequential.rounds_to_pass(np.ones(24, bool), names, 0.95, 28) == 7
    assert sequential.rounds_to_pass(np.zeros(24, bool), names, 0.95, 28) is None


def test_prompts_with_different_numbers_of_pictures_make_no_rounds():
    assert sequential.interval(np.ones(3, bool), ["a", "a", "b"]) is None
    assert sequential.rounds_of(["a", "b", "a", "b"]) == [[0, 1], [2, 3]]
