import pytest

from benchmarks.under_load.figures import Bar, latencies, percentile, side_by_side


def test_a_ratio_is_the_median_of_the_rounds_with_the_least_and_the_greatest():
    bar = side_by_side("x", [10, 30, 10], [10, 10, 20], least=0.7)
    assert (bar.value, bar.low, bar.high) == (1.0, 0.5, 3.0)


def test_rounds_of_one_side_alone_are_no_ratio():
    with pytest.raises(ValueError, match="shorter"):
        side_by_side("x", [1, 2], [1])


@pytest.mark.parametrize(
    ("bar", "verdict"),
    [
        (Bar("x", 0.7, least=0.7), "held"),
        (Bar("x", 0.69, least=0.7), "missed"),
        (Bar("x", 1.5, most=1.5), "held"),
        (Bar("x", 1.51, most=1.5), "missed"),
        (Bar("x", 1, most=0), "missed"),
        (Bar("x", None, least=0.8, why="nginx is not installed"), "not measured"),
    ],
)
def test_a_bar_is_held_at_its_very_value_and_missed_beyond(bar, verdict):
    assert bar.verdict == bar.row()["verdict"] == verdict
    assert bar.told().startswith(verdict)
    assert bar.missed == (verdict == "missed")


def test_what_could_not_be_measured_has_a_reason_and_no_figure():
    bar = Bar("x", None, least=0.8, why="nginx is not installed")
    assert "value" not in bar.row()
    assert bar.told().endswith("nginx is not installed")


def test_percentiles_are_values_that_were_seen():
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile([float(n) for n in range(1, 101)], 0.99) == 99.0
    assert percentile([5.0], 0.99) == 5.0
    assert latencies([0.001, 0.002, 0.003]) == {"requests": 3, "p50_ms": 2.0, "p99_ms": 3.0}
