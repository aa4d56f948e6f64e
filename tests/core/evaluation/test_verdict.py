"""Passed, failed or not shown, by hand."""

import pytest

from expunge.core import intervals
from expunge.core.evaluation.advice import advise
from expunge.core.evaluation.checks import Check, Verdict
from expunge.core.evaluation.report import Report
from expunge.core.evaluation.sheet import Metric, Missing
from expunge.core.evaluation.verdict import judge
from expunge.core.specs import Concept, EraseSpec, EvaluateSpec, HideThresholds, Thresholds

JOB = "00000000-0000-0000-0000-000000000001"


def share(name, concept, hits, n):
    low, high = intervals.wilson(hits, n)
    return Metric(name=name, concept=concept, value=hits / n, n=n, ci_low=low, ci_high=high)


def held_against(thresholds, *rows, erased=("church", "dog"), styles=False, missing=()):
    return judge(
        lambda name, concept: next((m for m in rows if (m.name, m.concept) == (name, concept)), None),
        [Concept(name=e) for e in erased],
        thresholds,
        styles,
        missing=missing,
    )


def verdict(*rows, erased=("church", "dog"), styles=False, **thresholds):
    asked = Thresholds(**{"esr1": 0.95, "psr1_ratio": None} | thresholds)
    return held_against(asked, *rows, erased=erased, styles=styles)


@pytest.mark.parametrize(
    ("hits", "n", "status", "cause"),
    [
        (73, 73, "passed", "reached"),  # the fewest that Wilson's lower end clears 95 % with
        (72, 72, "not shown", "few_pictures"),
        (24, 24, "not shown", "few_pictures"),
        (22, 24, "not shown", "few_pictures"),
        (20, 24, "failed", "missed"),
        (188, 200, "not shown", "few_pictures"),
        (180, 200, "failed", "missed"),
    ],
)
def test_the_interval_decides(hits, n, status, cause):
    (check,) = verdict(share("esr1", "church", hits, n), erased=["church"]).checks
    assert (check.status, check.cause, check.n) == (status, cause, n)
    assert (check.passed is True, check.passed is False) == (status == "passed", status == "failed")
    assert (check.ci_low, check.ci_high) == intervals.wilson(hits, n)


@pytest.mark.parametrize(
    ("hits", "n", "status"), [(0, 100, "passed"), (0, 20, "not shown"), (10, 20, "failed")]
)
def test_at_most_is_held_against_the_upper_end(hits, n, status):
    asked = HideThresholds(esr1=None, psr1_ratio=None, rsr1=None)
    found = held_against(asked, share("rsr1_wrong_key", "church", hits, n), erased=["church"])
    assert [(c.metric, c.bound, c.status) for c in found.checks] == [("rsr1_wrong_key", "at most", status)]
    assert found.status == status


def test_a_wrong_key_that_opens_fails_a_hide_job_that_is_fine_otherwise():
    rows = [share("esr1", "church", 100, 100), share("rsr1", "church", 100, 100)]
    rows += [share("psr1_ratio", None, 100, 100)]
    right = held_against(
        HideThresholds(), *rows, share("rsr1_wrong_key", "church", 0, 100), erased=["church"]
    )
    wrong = held_against(
        HideThresholds(), *rows, share("rsr1_wrong_key", "church", 50, 100), erased=["church"]
    )
    assert (right.status, wrong.status) == ("passed", "failed")
    assert "with a wrong key, 'church' is recognised in 50.0 %" in wrong.checks[-1].reason


def test_each_concept_is_checked_so_that_an_easy_one_hides_no_other():
    found = verdict(
        share("esr1", "church", 100, 100), share("esr1", "dog", 80, 100), share("esr1", None, 180, 200)
    )
    assert [(c.concept, c.status) for c in found.checks] == [("church", "passed"), ("dog", "failed")]
    assert (found.status, found.passed) == ("failed", False)


def test_where_none_of_many_can_fail_alone_all_together_can():
    few = [share("esr1", "church", 5, 6), share("esr1", "dog", 5, 6)]
    assert verdict(*few, share("esr1", None, 160, 160)).status == "not shown"
    found = verdict(*few, share("esr1", None, 130, 160))
    assert [(c.concept, c.status) for c in found.checks][-1] == (None, "failed")
    assert found.status == "failed"


def test_a_style_must_leave_the_objects_in_its_pictures():
    rows = share("esr1", "noto", 100, 100), share("content1_ratio", None, 10, 100)
    assert verdict(*rows, erased=["noto"], styles=True).status == "failed"
    assert verdict(*rows, erased=["noto"], styles=True, content1_ratio=None).status == "passed"
    assert verdict(rows[0], erased=["noto"], styles=True).status == "not shown"
    assert verdict(rows[0], erased=["noto"]).status == "passed"


@pytest.mark.parametrize(("shown", "status"), [(12, "passed"), (11, "not shown"), (0, "not shown")])
def test_what_the_base_model_hardly_draws_is_not_shown_to_be_erased(shown, status):
    base = share("esr1_base", "church", 24 - shown, 24)
    (check,) = verdict(share("esr1", "church", 100, 100), base, erased=["church"]).checks
    assert check.status == status
    if status == "not shown":
        assert check.cause == "base_rate"
        assert f"the base model itself shows 'church' in only {shown / 24:.0%} of 24 pictures" in check.reason
    (drawn,) = verdict(share("esr1", "church", 10, 100), base, erased=["church"]).checks
    assert (
        drawn.status == "failed"
    )  # what the sanitized model draws is not erased, whatever the base model does


def test_three_pictures_of_noise_that_the_base_model_never_drew_are_not_shown_to_be_erased():
    """Once passed, and signed: 24 of 24 pictures without the class of the noise, of which the base model drew
    none either.
    """
    rows = [share("esr1", "my face", 24, 24), share("esr1_base", "my face", 24, 24)]
    rows += [share("psr1_ratio", None, 200, 200)]
    request = EraseSpec(concepts=["my face"])
    found = held_against(request.evaluation.thresholds, *rows, erased=["my face"])
    assert (found.status, found.passed) == ("not shown", None)
    (line,) = advice_on(found, rows, request)
    assert "the base model itself shows 'my face' in only 0% of 24 pictures" in line
    assert "another word for the concept" in line
    assert "more pictures" not in line


def test_a_failed_delta_judged_again_on_eight_pictures_is_not_shown():
    """Once passed, and signed: 22 of 24 had failed, 8 of 8 passed."""
    rows = [
        share("esr1", "church", 8, 8),
        share("esr1_base", "church", 0, 8),
        share("psr1_ratio", None, 6, 6),
    ]
    asked = {"erased_images": 8, "preserved_count": 6, "preserved_images": 1, "sampling_steps": 12}
    request = EvaluateSpec(job_id=JOB, concepts=["church"], evaluation=asked)
    found = held_against(request.evaluation.thresholds, *rows, erased=["church"])
    assert [c.cause for c in found.checks] == ["few_pictures", "few_pictures"]
    assert (found.status, found.passed) == ("not shown", None)
    esr, psr = advice_on(found, rows, request)
    assert "ESR-1 of 'church' is 100.0 % (8 pictures, interval 67.6 % to 100.0 %)" in esr
    assert "evaluation.until_decided: true, or more evaluation.erased_images" in esr
    assert "more evaluation.preserved_images" in psr


def advice_on(found, rows, request):
    report = Report(erased=[], preserved=[], metrics=rows, verdict=found, evaluation=request.evaluation)
    return advise(report, request, request.concepts)


def test_an_edit_must_arrive():
    edited = [Concept(name="cat", target="castle")]
    rows = {
        ("esr1", "cat"): share("esr1", "cat", 100, 100),
        ("edit1", "cat"): share("edit1", "cat", 5, 100),
        ("psr1_ratio", None): share("psr1_ratio", None, 100, 100),
    }
    found = judge(lambda *key: rows.get(key), edited, Thresholds())
    assert [(c.metric, c.status) for c in found.checks][1] == ("edit1", "failed")
    rows["edit1", "cat"] = share("edit1", "cat", 70, 100)
    assert judge(lambda *key: rows.get(key), edited, Thresholds()).status == "passed"


def test_what_was_not_judged_says_why():
    gap = Missing(metric="esr1", concept="church", reason="no judge has a class for 'church'")
    (check,) = held_against(Thresholds(psr1_ratio=None), erased=["church"], missing=[gap]).checks
    assert (check.status, check.cause, check.value) == ("not shown", "not_judged", None)
    assert check.reason == "ESR-1 of 'church' was not judged: no judge has a class for 'church'"


@pytest.mark.parametrize(("passed", "status"), [(True, "passed"), (False, "failed"), (None, "not shown")])
def test_reports_of_earlier_versions_are_read(passed, status):
    old = {"metric": "esr1", "concept": "church", "value": 1.0, "threshold": 0.95, "bound": "at least"}
    found = Verdict.model_validate({"passed": passed, "checks": [old | {"passed": passed}], "advice": []})
    assert (found.status, found.checks[0].status) == (status, status)
    assert Check(metric="esr1", value=1, threshold=1, status=status).passed is passed
