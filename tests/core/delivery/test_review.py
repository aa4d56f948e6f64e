"""What a reviewer reads first: captions, the worst pictures, the most hurt, what was not tested."""

from dataclasses import replace
from html import unescape
from pathlib import Path

import numpy as np
import pytest

from expunge.core.attacks.result import AttackResult, Rate
from expunge.core.delivery import page, review
from expunge.core.evaluation.checks import Check, Verdict
from expunge.core.evaluation.pictures import Picture
from expunge.core.evaluation.report import Evaluation, Report
from expunge.core.evaluation.sheet import JudgedBy, Metric, Missing
from expunge.core.evaluation.sights import Sight
from expunge.core.evaluation.untested import list_untested
from expunge.core.specs import CombineSpec, Concept, EraseSpec, EvaluationSpec
from expunge.core.specs.attacks import ATTACKS

KEPT = ["dog", "cat", "fox"]
PICTURES = [
    Picture("church", "erased", "a church", 0),
    Picture("church", "erased", "the church", 1, kind="held_out"),
    *(Picture(name, "preserved", f"a {name}", seed) for name in KEPT for seed in (0, 1)),
    Picture("dog", "preserved", "a dog and a fox", 0, "fox", "pair"),
]


def rate(name: str, concept: str | None, value: float) -> Metric:
    return Metric(name=name, concept=concept, value=value, n=2, ci_low=0, ci_high=1)


@pytest.fixture
def evaluation() -> Evaluation:
    """One of two churches is gone; the first dog is a wolf, the second cat is nothing."""
    check = Check(metric="esr1", concept="church", value=0.5, threshold=1, status="failed", reason="x")
    psr = {"dog": 0.5, "cat": 0.5, "fox": 1.0}
    report = Report(
        erased=["church"],
        preserved=KEPT,
        metrics=[
            *(rate(f"esr1{suffix}", name, 0.5) for suffix in ("", "_base") for name in ("church", None)),
            *(rate("psr1", name, value) for name, value in {**psr, None: 2 / 3}.items()),
            *(rate("psr1_base", name, 1) for name in (*KEPT, None)),
            *(
                rate("clip_delta", name, value)
                for name, value in {"dog": 1.0, "cat": 2.0, "fox": 5.0}.items()
            ),
        ],
        verdict=Verdict(status="failed", checks=[check]),
        evaluation=EvaluationSpec(),
    )
    right = [Sight(p.concept, False, True, 0.9) for p in PICTURES[:-1]]
    after = list(right)
    after[1] = Sight("house", False, False, 0.3)
    after[2] = Sight("a photo of a wolf", False, False, 0.2)
    after[5] = Sight("cat", True, False, 0.4)
    images = np.arange(9, dtype=np.uint8)[:, None, None, None] * np.ones((1, 8, 8, 3), np.uint8)
    sights = {"": [*after, None], "_base": [*right, None]}
    return Evaluation(report, PICTURES, images, images + 100, sights=sights)


def test_a_caption_says_what_is_seen_instead(evaluation: Evaluation):
    said = [review.captions(evaluation, row) for row in range(len(PICTURES))]
    assert [s["saw_after"]["text"] for s in said] == [
        "still church",
        "house",
        "now wolf",
        "dog",
        "cat",
        "now nothing it knows",
        "fox",
        "fox",
        "not judged",
    ]
    assert [i for i, s in enumerate(said) if s["saw_after"]["bad"]] == [0, 2, 5]
    assert said[2]["saw_before"] == {"text": "dog", "bad": False}


def test_the_worst_pictures_are_those_that_fail_the_surest_first(evaluation: Evaluation):
    found = review.worst_pictures(evaluation)
    assert (found["failed"], found["judged"]) == (3, 8)
    order = [(each["concept"], each["seed"]) for each in found["shown"]]
    assert order[:4] == [("church", 0), ("dog", 0), ("cat", 1), ("church", 1)]
    # An edited concept that is gone has not become its target
    became = [
        replace(s, target=Sight(s.guess, False, False, 0.01)) if s else None for s in evaluation.sights[""]
    ]
    edited = replace(evaluation, sights=dict(evaluation.sights) | {"": became})
    assert review.captions(edited, 1)["saw_after"] == {"text": "house", "bad": True}
    assert review.worst_pictures(edited)["failed"] == 4
    # What the base model does not draw cannot be lost
    unseen = [replace(s, shows=False) if s else None for s in evaluation.sights["_base"]]
    left = review.worst_pictures(replace(evaluation, sights=dict(evaluation.sights) | {"_base": unseen}))
    assert (left["failed"], left["judged"]) == (1, 2)
    assert review.worst_pictures(replace(evaluation, sights={})) == {"shown": [], "failed": 0, "judged": 0}


def test_the_most_hurt_come_first_and_with_the_picture_that_lost_them(evaluation: Evaluation):
    assert review.most_hurt(evaluation.report) == ["cat", "dog", "fox"]
    panels = [panel for panel in page.concept_panels(evaluation) if panel["role"] == "preserved"]
    assert [(panel["name"], panel["pairs"][0]["seed"]) for panel in panels] == [
        ("cat", 1),
        ("dog", 0),
        ("fox", 0),
    ]


def test_where_something_failed_what_was_not_shown_is_folded_away(evaluation: Evaluation):
    verdict = evaluation.report.verdict
    verdict.advice = ["Not shown: a", "Not erased: b", "Not shown: c", "The weights …"]
    assert review.sorted_advice(evaluation.report) == {
        "first": ["Not erased: b", "The weights …"],
        "more": ["Not shown: a", "Not shown: c"],
    }
    verdict.status = "not shown"
    assert review.sorted_advice(evaluation.report) == {"first": verdict.advice, "more": []}


def untested(evaluation: Evaluation, **more: bool) -> str:
    asked = {"foreign_base": False, "foreign_delta": False} | more
    return "\n".join(list_untested(evaluation.report, evaluation.pictures, **asked))


def test_what_was_not_tested_follows_from_what_was_asked(evaluation: Evaluation):
    report = evaluation.report
    said = untested(evaluation)
    for words in (
        "Attacks: none was run",
        "Leakage",
        "2 different prompts",
        "with compositions, plural and capitals, synonyms and descriptions",
        "seeds 0 to 1",
        "these 3 alone",
        "Nudity was not looked for",
    ):
        assert words in said
    assert "Triggers" not in said
    assert "the base model and the delta came from outside" in untested(
        evaluation, foreign_base=True, foreign_delta=True
    )

    # What was done is no longer said
    budget = {"name": "paraphrase"}
    none = Rate(asr=0.0, n=4, ci_low=0.0, ci_high=0.6, attempts=[0.0], found="x")
    facts = {"citation": "x", "status": "not shown", "seconds": 1.0, "needs": "prompts", "budget": budget}
    attack = AttackResult(attack="paraphrase", concept="church", sanitized=none, base=none, **facts)
    report.attacks = [attack]
    report.metrics += [
        rate("leakage_nats", "church", 0.1),
        rate("ner_0.5", None, 0.0),
        rate("shown1_held_out", None, 0.0),
    ]
    report.not_available = [Missing(metric="esr1", concept="church", reason="no class")]
    said = untested(evaluation)
    assert "none was run" not in said
    assert "Leakage" not in said
    left = next(line for line in said.splitlines() if line.startswith("Attacks that were not run"))
    assert [name for name in ATTACKS if name in left] == [name for name in ATTACKS if name != "paraphrase"]
    assert "showed nothing either way: paraphrase on church" in said
    assert "With held-out templates the base model drew none of it" in said
    assert "No judge knows church" in said
    assert "no finding is no clearance" in said


def test_what_the_verdict_rests_on_is_counted(evaluation: Evaluation):
    further = [Picture("church", "erased", "a church", seed) for seed in (2, 3)]
    evaluation.report.judges = [
        JudgedBy(concept=name, judge="net", kind="classifier", among=220) for name in ("church", *KEPT)
    ]
    assert review.evidence(replace(evaluation, further=further)) == [
        "1 picture of church by each model, with the usual prompts, and 2 more by the sanitized one; beside"
        " the verdict 1 with held-out templates",
        "6 pictures of 3 preserved concepts by each model",
        "the classifier “net”, which chose among 220 answers, said what they show",
    ]


def test_what_was_asked_is_told_in_words():
    concepts = [
        Concept(name="church", synonyms=["chapel"]),
        Concept(name="dog", target="cat"),
    ]
    spec = EraseSpec(concepts=concepts, preserve=["fox", "wolf"], method="uce")
    assert review.asked(concepts, spec) == {
        "Take out": "church (also: chapel)",
        "Turn “dog” into": "cat",
        "Must stay": "fox and wolf",
        "Method": "uce",
        "Model": "emoji",
    }
    combined = CombineSpec(jobs=["00000000-0000-4000-8000-000000000001"])
    assert review.asked(concepts[:1], combined) == {"Take out": "church (also: chapel)", "Model": "emoji"}


def test_the_page_shows_all_of_it(evaluation: Evaluation, tmp_path: Path):
    evaluation.report.not_tested = ["<Attacks>: none was run."]
    facts = {"title": "x", "summary": "y", "limits": [], "details": {}, "asked": {"Take out": "<b>church"}}
    html = page.render_report(evaluation, [], facts)
    assert "<b>church" not in html
    text = unescape(html)
    for words in ("still church", "now wolf", "What was not tested", "<Attacks>: none was run.", "worst"):
        assert words in text
    assert text.index("What was asked") < text.index("worst pictures") < text.index("the most hurt first")
    # Two pictures of the church, eight pairs among the worst, three preserved: two pictures each
    assert html.count("data:image/png;base64,") == 2 * (2 + 8 + 3)
