"""Leakage of an evaluation: who is measured against what, at what cost, and where it is told."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from expunge.core.concepts import nearest
from expunge.core.erasure import erase
from expunge.core.evaluation.evidence import Evidence
from expunge.core.evaluation.judges import Judges
from expunge.core.evaluation.metrics import leakage
from expunge.core.evaluation.sheet import Leakage
from expunge.core.leakage.bracket import bracket_of
from expunge.core.leakage.paths import walk
from expunge.core.leakage.prompts import pairs
from expunge.core.models import Denoiser, load_model
from expunge.core.progress import Callback, ignore
from expunge.core.run import run_erase
from expunge.core.specs import Concept, EraseSpec, EvaluationSpec, NaiveSpec
from expunge.core.specs.cost import pictures
from expunge.core.specs.metrics import format_metric

NONE = np.zeros((0, 64, 64, 3), np.uint8)
CHURCH = Concept(name="church")


@pytest.fixture(scope="module")
def model(tiny_sd: Path) -> Denoiser:
    return load_model(tiny_sd)


def asked(**fields: Any) -> EvaluationSpec:
    return EvaluationSpec.model_validate({"leakage": {"pairs": 6, **fields}, "sampling_steps": 2})


def measured(
    model: Denoiser, concepts: list[Concept], spec: EvaluationSpec, callback: Callback = ignore
) -> tuple[Evidence, list[Leakage]]:
    seen = Evidence(model, Judges(None, None, None), concepts, [], [], NONE, NONE)
    return seen, leakage.measure(seen, spec, lambda *_: callback)


def test_it_costs_the_evaluations_that_the_estimate_counts_and_tells_as_many_steps(model: Denoiser):
    spec, told, before = asked(), list[int](), model.evaluations
    measured(model, [CHURCH], spec, lambda p: told.append(p["step"]))
    counted = pictures(EraseSpec(concepts=["church"], evaluation=spec))["evaluation.leakage.pairs"]
    assert model.evaluations - before == counted * 2 * spec.sampling_steps  # guidance asks twice
    assert 2 * told[-1] == leakage.steps_of(spec, 1) == counted  # told ends with the base model's half
    assert "evaluation.leakage.pairs" not in pictures(EraseSpec(concepts=["church"]))


@pytest.mark.parametrize("name", ["church", "in noto style"])
def test_against_itself_a_concept_leaks_nothing(model: Denoiser, name: str):
    _, (row,) = measured(model, [Concept(name=name)], asked(against=[name]))
    for found in (row.sanitized, row.base):
        assert found.upper.value == found.path_kl.value == found.upper.ci_high == 0
        assert found.lower.value < 0.1


def test_the_other_prompt_names_the_target_or_the_nearest_that_are_not_erased(model: Denoiser):
    erased = [CHURCH, Concept(name="dog", target="teapot"), Concept(name="cat", attributes=["wolf", "dog"])]
    _, found = measured(model, erased, asked())
    assert [row.concept for row in found] == ["church", "dog"]  # what is spread is to be shown
    assert found[0].against == nearest(model, CHURCH, erased)[:8]
    assert not {"dog", "cat", "church"} & set(found[0].against)
    assert found[1].against == ["teapot"]


def test_along_a_training_run_the_path_kl_falls(tiny_sd: Path):
    trained, found = load_model(tiny_sd), list[float]()
    prompts = [("the church", "the teapot"), ("one church", "one teapot")]

    def look(progress: Any) -> None:
        if progress["phase"] == "erase" and progress["step"] in (4, 8, 12):
            paths = walk(trained, prompts, seed=0, steps=3, guidance=3)
            found.append(float(paths.path_kl.mean()))

    found.append(float(walk(trained, prompts, seed=0, steps=3, guidance=3).path_kl.mean()))
    method = NaiveSpec(steps=12, trajectories=2, sampling_steps=3, learning_rate=3e-3)
    erase(trained, EraseSpec(concepts=[{"name": "church", "target": "teapot"}], method=method), callback=look)
    assert sorted(found, reverse=True) == found
    assert len(set(found)) == 4
    assert found[-1] < 0.7 * found[0]


def test_on_the_untouched_model_that_draws_it_nearly_everything_is_read():
    """The bundled model draws churches and dogs, and log 2 is 0.693."""
    emoji = load_model("bundled:emoji")
    prompts = pairs(emoji.vocabulary, ["church"], ["dog"], 10)
    found = walk(emoji, prompts, seed=0, steps=5, guidance=7.5)
    lower = bracket_of(found, seed=0).lower.value
    assert 0.4 < lower <= float(found.upper.mean()) <= 0.6932


def test_a_job_that_asks_for_it_reports_it_and_says_what_it_means(tiny_judged: Path, tmp_path: Path):
    judging = {
        "erased_images": 1,
        "held_out_images": 0,
        "preserved_count": 2,
        "preserved_images": 1,
        "sampling_steps": 2,
        "leakage": {"pairs": 6},
    }
    spec = EraseSpec.model_validate(
        {"concepts": [{"name": "church", "target": "teapot"}], "method": "uce", "evaluation": judging}
    )
    run_erase(spec, tmp_path / "out", source=str(tiny_judged), cache=tmp_path / "cache")
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    (row,) = report["leakage"]
    assert (row["concept"], row["against"], row["pairs"]) == ("church", ["teapot"], 6)

    # The edit has brought the two prompts together, which only the sanitized model wears
    assert row["sanitized"]["path_kl"]["value"] < 0.7 * row["base"]["path_kl"]["value"]
    figures = {m["name"]: m for m in report["metrics"] if m["name"].startswith("leakage")}
    assert set(figures) == {f"leakage_{end}_nats{of}" for end in ("lower", "upper") for of in ("", "_base")}
    assert figures["leakage_upper_nats"]["value"] == row["sanitized"]["upper"]["value"]
    assert figures["leakage_upper_nats_base"]["value"] == row["base"]["upper"]["value"]
    assert any(text.startswith("leakage_lower_nats") for text in report["conventions"])
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<h2>Leakage</h2>" in page
    assert f"<b>{row['sanitized']['upper']['value']:.3f}</b>" in page


def test_what_nobody_asked_for_is_not_measured(model: Denoiser):
    seen, found = measured(model, [CHURCH], EvaluationSpec())
    assert found == seen.sheet.metrics == []
    assert leakage.steps_of(EvaluationSpec(), 1) == 0


def test_where_nothing_else_is_left_the_report_says_so(model: Denoiser):
    everything = [Concept(name=name) for name in model.vocabulary.concepts]
    seen, found = measured(model, everything, asked())
    assert found == []
    assert {m.metric for m in seen.sheet.missing} == {"leakage_lower_nats"}
    assert len(seen.sheet.missing) == len(everything)


@pytest.mark.parametrize("fields", [{"pairs": 5}, {"pairs": 0}, {"against": []}, {"steps": 9}])
def test_what_cannot_be_measured_is_refused(fields: dict[str, Any]):
    with pytest.raises(ValidationError):
        EvaluationSpec.model_validate({"leakage": fields})


def test_nats_are_written_as_nats():
    assert format_metric(0.6931, "leakage_upper_nats") == "0.693 nats"
    assert format_metric(0.6931, "leakage_upper_nats_base") == "0.693 nats"
