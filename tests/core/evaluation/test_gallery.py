"""`evaluation.until_decided`: pictures are drawn on, and no more than the verdict needs.

The tiny model's judge says "teapot" of every picture that it draws.
"""

from pathlib import Path

import pytest

from expunge.core.evaluation.evaluate import evaluate
from expunge.core.evaluation.judges import judges_for
from expunge.core.evaluation.report import Evaluation
from expunge.core.models import load_model
from expunge.core.progress import Progress
from expunge.core.specs import Concept, EvaluationSpec
from expunge.core.specs.cost import most_erased_images, most_preserved_images

ASKED = {
    "erased_images": 6,
    "held_out_images": 0,
    "pair_images": 0,
    "preserved_images": 1,
    "sampling_steps": 2,
    "until_decided": True,
}


@pytest.fixture(scope="module")
def judged(tiny_judged: Path, tmp_path_factory: pytest.TempPathFactory):
    """judged(erased, preserved, **thresholds): the base model beside itself, and the progress told."""
    model, judges = load_model(tiny_judged), judges_for(str(tiny_judged), "cpu")
    cache = tmp_path_factory.mktemp("cache")

    def run(erased: str, preserved: str, **limits: float) -> tuple[Evaluation, list[tuple[int, int]]]:
        asked = {"preserved_concepts": [preserved], "thresholds": {"esr1": None, "psr1_ratio": None} | limits}
        told, left = list[tuple[int, int]](), list[float]()

        def follow(p: Progress) -> None:
            told.append((p["step"], p["total"]))
            left.append(p.get("eta_s") or 0.0)

        found = evaluate(
            model,
            [Concept(name=erased)],
            EvaluationSpec.model_validate(ASKED | asked),
            judges=judges,
            cache=cache,
            delta_digest="same",
            callback=follow,
        )
        assert min(left) >= 0  # also where pictures are drawn on
        return found, told

    return run


def test_nothing_is_drawn_on_where_it_is_decided_or_more_pictures_would_not_help(judged):
    for erased, threshold, status in (("teapot", 0.9, "failed"), ("church", 0.5, "not shown")):
        found, told = judged(erased, "dog", esr1=threshold)
        assert found.report.verdict.status == status
        assert (len(found.further), found.report.verdict.checks[0].n) == (0, 6)
        assert len({total for _, total in told}) == 1


def test_an_erased_concept_is_drawn_on_in_whole_rounds_until_it_is_decided(judged):
    found, told = judged("teapot", "dog", esr1=0.2)
    (check,) = found.report.verdict.checks
    assert (check.status, check.value) == ("failed", 0.0)
    assert check.n == 6 + len(found.further)
    assert 6 < check.n < most_erased_images(found.report.evaluation, 1)
    assert check.ci_high < 0.2
    # Each prompt as often as another, each picture once, and the base model draws none of them
    asked = [p for p in found.pictures if p.concept == "teapot"] + list(found.further)
    assert len(set(asked)) == len(asked) == check.n
    prompts = [p.prompt for p in asked]
    assert len({prompts.count(prompt) for prompt in prompts}) == 1
    base = next(m for m in found.report.metrics if (m.name, m.concept) == ("esr1_base", "teapot"))
    assert base.n == 6
    # The steps never fall, and end where the last total says
    steps = [step for step, _ in told]
    assert steps == sorted(steps)
    assert told[-1][0] == told[-1][1] > told[0][1]


def test_it_ends_at_the_bound_with_not_shown(judged):
    found, _ = judged("teapot", "dog", esr1=0.001)
    (check,) = found.report.verdict.checks
    assert (check.status, check.cause) == ("not shown", "few_pictures")
    assert check.n == most_erased_images(found.report.evaluation, 1)


def test_preserved_concepts_are_drawn_on_by_both_models(judged):
    found, _ = judged("church", "teapot", psr1_ratio=0.5)
    (check,) = found.report.verdict.checks
    assert check.value == 1.0
    kept = [p for p in found.pictures if p.concept == "teapot"]
    assert 1 < len(kept) == check.n <= most_preserved_images(found.report.evaluation, 1)
    assert len(found.base) == len(found.sanitized) == len(found.pictures)
    assert found.further == []
