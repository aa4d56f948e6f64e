"""A verdict that is not passed comes with what to try."""

import pytest

from expunge.core.evaluation.advice import advise
from expunge.core.evaluation.report import Report
from expunge.core.evaluation.sheet import Metric, Missing
from expunge.core.evaluation.verdict import judge
from expunge.core.specs import CombineSpec, EraseSpec, EvaluateSpec, HideSpec

JOB = "00000000-0000-0000-0000-000000000001"
FINE = {
    ("esr1", "church"): 1.0,
    ("psr1_ratio", None): 1.0,
    ("edit1", "church"): 1.0,
    ("rsr1_wrong_key", "church"): 0.0,
}


def advice(request, found, missing=(), styles=False, pictures=24):
    """The advice on a request whose figures are these, each its own interval, and all else fine."""
    rows = [
        Metric(name=n, concept=c, value=v, n=pictures, ci_low=v, ci_high=v)
        for (n, c), v in (FINE | found).items()
        if v is not None
    ]
    concepts = getattr(request, "concepts", None) or EraseSpec(concepts=["church"]).concepts
    verdict = judge(
        lambda name, concept: next((m for m in rows if (m.name, m.concept) == (name, concept)), None),
        concepts,
        request.evaluation.thresholds,
        styles,
        missing=[Missing(metric=m, concept=c, reason=r) for m, c, r in missing],
    )
    report = Report(
        erased=[c.name for c in concepts],
        preserved=["mosque"],
        metrics=rows,
        verdict=verdict,
        not_available=[Missing(metric=m, concept=c, reason=r) for m, c, r in missing],
        evaluation=request.evaluation,
    )
    return advise(report, request, concepts)


def erase(**fields):
    return EraseSpec(**{"concepts": ["church"]} | fields)


def test_a_verdict_that_passed_needs_no_advice():
    assert advice(erase(), {}) == []


@pytest.mark.parametrize(
    ("request_", "found", "said", "unsaid"),
    [
        (
            erase(method={"name": "esd", "steps": 60}),
            {("esr1", "church"): 0.6},
            (
                "'church'",
                "40.0 %",
                "5.0 %",
                "more method.steps than 60",
                "a target for it",
                "synonyms",
                "the default method, age",
            ),
            ("fewer concepts",),
        ),
        (
            erase(
                concepts=[{"name": "church", "target": "castle", "synonyms": ["chapel"]}, "dog"], method="age"
            ),
            {("esr1", "church"): 0.6, ("esr1", "dog"): 1.0},
            ("a target that is further", "fewer concepts at once", "another method"),
            ("its synonyms", "a target for it"),
        ),
        (
            erase(method="uce"),
            {("esr1", "church"): 0.6},
            ("a target for it", "the default method"),
            ("steps",),
        ),
        (
            erase(method="uce"),
            {("psr1_ratio", None): 0.3},
            ("30.0 %", "90.0 %", "method.hold_vocabulary: true", "in preserve"),
            ("steps",),
        ),
        (
            erase(method={"name": "rece", "hold_vocabulary": True}, preserve=["mosque"]),
            {("psr1_ratio", None): 0.3},
            ("the default method",),
            ("hold_vocabulary", "in preserve"),
        ),
        (
            erase(),
            {("psr1_ratio", None): 0.3},
            ("in preserve", "another method"),
            ("hold_vocabulary", "fewer"),
        ),
        (
            HideSpec(concepts=["church"]),
            {("rsr1", "church"): 0.1},
            ("Not recovered", "'church'", "10.0 %", "70.0 %", "recovery.steps", "recovery.length"),
            ("in preserve",),
        ),
        (
            EvaluateSpec(job_id=JOB, concepts=["church"]),
            {("esr1", "church"): 0.6},
            ("another erase job",),
            ("method.steps",),
        ),
        (
            HideSpec(concepts=["church"]),
            {("rsr1_wrong_key", "church"): 0.3},
            ("Not hidden", "'church'", "30.0 %", "10.0 %", "recovery.start"),
            ("in preserve",),
        ),
        (CombineSpec(jobs=[JOB]), {("psr1_ratio", None): 0.3}, ("fewer jobs",), ("method",)),
    ],
)
def test_a_failed_check_says_by_how_much_and_what_may_help(request_, found, said, unsaid):
    (line,) = advice(request_, {("rsr1", "church"): 1.0} | found)
    assert all(text in line for text in said), line
    assert not any(text in line for text in unsaid), line


def test_all_concepts_together_are_spoken_of_where_none_alone_failed():
    few = {("esr1", "church"): 0.96, ("esr1", "dog"): 0.96, ("esr1", None): 0.9}
    request = erase(concepts=["church", "dog"], evaluation={"erased_images": 6})
    assert ["over all erased concepts" in line for line in advice(request, few, pictures=6)] == [True]
    assert ["'dog'" in line for line in advice(request, few | {("esr1", "dog"): 0.5}, pictures=6)] == [True]


def test_the_content_that_a_style_took_along_is_spoken_of():
    found = {("esr1", "noto"): 1.0, ("content1_ratio", None): 0.5}
    (line,) = advice(erase(concepts=["noto"], method="uce"), found, styles=True)
    assert line.startswith("Content lost: without the style, 50.0 %")
    assert "hold_vocabulary" not in line  # where a style is erased it is held unless that is switched off
    (line,) = advice(
        erase(concepts=["noto"], method={"name": "uce", "hold_vocabulary": False}), found, styles=True
    )
    assert "hold_vocabulary: true" in line


def test_what_was_not_judged_says_why_and_what_would_make_it_so():
    lines = advice(
        erase(),
        {("esr1", "church"): None, ("psr1_ratio", None): None},
        [
            ("esr1", "church", "no judge has a class for 'church'"),
            ("psr1", "mosque", "no judge has a class for 'mosque'"),
        ],
    )
    assert [
        "no judge has a class for 'church'" in lines[0],
        "no judge has a class for 'mosque'" in lines[1],
    ] == [True, True]
    assert "evaluation.preserved_concepts" in lines[1]
    assert all("docs/your-own-model.md" in line for line in lines)
