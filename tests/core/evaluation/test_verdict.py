"""Pass or fail, by hand."""

from expunge.core.evaluation.sheet import Metric
from expunge.core.evaluation.verdict import judge
from expunge.core.specs import Concept, Thresholds


def verdict(*metrics, erased=("church", "dog"), styles=False, **thresholds):
    rows = [Metric(name=n, concept=c, value=v, n=k, ci_high=h) for n, c, v, k, h in metrics]
    asked = Thresholds(**{"esr1": 0.95, "psr1_ratio": None} | thresholds)
    return judge(
        lambda name, concept: next((m for m in rows if (m.name, m.concept) == (name, concept)), None),
        [Concept(name=e) for e in erased],
        asked,
        styles,
    )


def test_each_concept_is_checked_so_that_an_easy_one_hides_no_other():
    found = verdict(
        ("esr1", "church", 1.0, 24, 1.0), ("esr1", "dog", 0.9, 24, 0.98), ("esr1", None, 0.96, 48, 1.0)
    )
    assert [(c.concept, c.passed) for c in found.checks] == [("church", True), ("dog", False)]
    assert found.passed is False


def test_one_picture_of_few_does_not_decide_but_all_together_must_reach_the_threshold():
    one_miss = ("esr1", "dog", 5 / 6, 6, 0.97)
    assert verdict(("esr1", "church", 1.0, 6, 1.0), one_miss, ("esr1", None, 0.96, 300, 0.98)).passed is True
    assert verdict(("esr1", "church", 1.0, 6, 1.0), one_miss, ("esr1", None, 0.94, 300, 0.98)).passed is False
    assert (
        verdict(
            ("esr1", "church", 1.0, 6, 1.0), ("esr1", "dog", 4 / 6, 6, 0.90), ("esr1", None, 0.96, 300, 0.98)
        ).passed
        is False
    )


def test_a_style_must_leave_the_objects_in_its_pictures():
    rows = ("esr1", "noto", 1.0, 24, 1.0), ("content1_ratio", None, 0.1, 24, 0.2)
    assert verdict(*rows, erased=["noto"], styles=True).passed is False
    assert verdict(*rows, erased=["noto"], styles=True, content1_ratio=None).passed is True
    assert verdict(rows[0], erased=["noto"], styles=True).passed is None
    assert verdict(rows[0], erased=["noto"]).passed is True
