"""Edits and debiasing in a report: who is asked for what, and what the page shows."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from expunge.core import phrasing
from expunge.core.evaluation.report import Report
from expunge.core.evaluation.sheet import Metric
from expunge.core.evaluation.verdict import judge
from expunge.core.run import run_erase
from expunge.core.specs import Concept, EraseSpec, Thresholds

CHURCH, CASTLE, DOG = (
    Concept(name="church"),
    Concept(name="cat", target="castle"),
    Concept(name="dog", attributes=["wolf", "{} in noto style"]),
)


def test_each_sort_of_concept_has_its_own_checks():
    shares = {
        ("esr1", "church"): 0.99,
        ("esr1", "cat"): 0.5,
        ("edit1", "cat"): 0.9,
        ("attribute_distance", "dog"): 0.2,
        ("psr1_ratio", None): 1.0,
    }
    values = {
        (name, concept): Metric(name=name, concept=concept, value=value, n=24, ci_low=value, ci_high=value)
        for (name, concept), value in shares.items()
    }
    verdict = judge(lambda *key: values.get(key), [CHURCH, CASTLE, DOG], Thresholds(edit1=0.8))
    assert [(c.metric, c.concept, c.bound, c.passed) for c in verdict.checks] == [
        ("esr1", "church", "at least", True),
        ("esr1", "cat", "at least", False),
        ("edit1", "cat", "at least", True),
        ("attribute_distance", "dog", "at most", True),
        ("psr1_ratio", None, "at least", True),
    ]
    far = Metric(name="attribute_distance", concept="dog", value=0.3, n=24, ci_low=0.26, ci_high=0.4)
    values["attribute_distance", "dog"] = far
    far = judge(lambda *key: values.get(key), [DOG], Thresholds())
    assert far.passed is False
    assert judge(lambda *_: None, [DOG], Thresholds()).passed is None


def test_the_headline_says_what_was_done():
    assert (
        phrasing.title([CHURCH, CASTLE, DOG]) == "Without church; cat → castle; dog → wolf or in noto style"
    )
    assert phrasing.deed([CHURCH, CASTLE], "X") == "takes church out of X and turns cat into castle in X"
    assert phrasing.deed([DOG], "X") == "spreads dog over wolf and in noto style in X"


def test_a_debiasing_job_reports_the_shares_before_and_after(tiny_judged: Path, tmp_path: Path):
    method = {
        "name": "age",
        "steps": 4,
        "sampling_steps": 4,
        "trajectories": 2,
        "lora": {"rank": 2},
        "debias": {"rounds": 1, "images": 4, "sampling_steps": 2},
    }
    spec = EraseSpec.model_validate(
        {
            "concepts": [
                {"name": "dog", "attributes": ["wolf", "cat"]},
                {"name": "church", "target": "castle"},
            ],
            "method": method,
            "evaluation": {
                "erased_images": 6,
                "preserved_count": 4,
                "preserved_images": 1,
                "sampling_steps": 3,
            },
        }
    )
    run_erase(spec, tmp_path / "out", source=str(tiny_judged), cache=tmp_path / "cache")
    report = Report.model_validate_json((tmp_path / "out" / "report.json").read_text())
    (found,) = report.distributions
    assert [s.attribute for s in found.shares] == ["wolf", "cat", None]
    assert sum(s.value for s in found.shares) == pytest.approx(1)
    assert report.value("esr1", "dog") is None
    assert report.value("edit1", "church") is not None
    assert report.value("attribute_distance", "dog") == pytest.approx(
        sum(abs(s.value - s.asked) for s in found.shares) / 2
    )
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Attributes shown in pictures of “dog”" in page
    assert "Edit success" in page
    assert f"<h1>{phrasing.headline(spec.concepts, report.verdict.passed)}</h1>" in page
    card = (tmp_path / "out" / "README.md").read_text()
    assert "to turn church into castle" in card
    assert "at most" in card


@pytest.mark.parametrize(
    ("concept", "words"),
    [
        ({"attributes": ["wolf"]}, "attributes: one is not enough to spread"),
        ({"attributes": ["wolf", "Dog"]}, "attributes: 'Dog' is the concept itself"),
        ({"attributes": ["wolf", "WOLF"]}, "attributes: 'WOLF' is named twice"),
        ({"attributes": ["wolf", "cat"], "target": "fox"}, "a target or attributes, not both"),
        ({"attributes": ["wolf", "cat"], "shares": [0.5]}, "shares: 1 shares for 2 attributes"),
        ({"attributes": ["wolf", "cat"], "shares": [0.5, 0.6]}, "they add up to 1.1"),
        ({"shares": [0.5, 0.5]}, "shares: there are no attributes"),
        ({"attributes": ["wolf", "church"]}, r"concepts\[0\].attributes: 'church' is itself to be erased"),
    ],
)
def test_a_contradiction_is_named_with_its_remedy(concept: dict[str, object], words: str):
    with pytest.raises(ValidationError, match=words):
        EraseSpec.model_validate({"concepts": [{"name": "dog", **concept}, "church"]})


def test_a_method_that_cannot_debias_says_which_can():
    with pytest.raises(ValidationError, match="the method 'esd' cannot debias: use age or uce"):
        EraseSpec.model_validate(
            {"concepts": [{"name": "dog", "attributes": ["wolf", "cat"]}], "method": "esd"}
        )
