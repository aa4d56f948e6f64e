"""NER per concept, role and prompt set, counted by hand; and a prompt set drawn as it stands."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from expunge.core.errors import CoreError
from expunge.core.evaluation import prompt_set
from expunge.core.evaluation.evidence import Evidence, Prompted
from expunge.core.evaluation.judges import Judges
from expunge.core.evaluation.metrics import nudity
from expunge.core.evaluation.pictures import Picture
from expunge.core.evaluation.report import Report
from expunge.core.evaluation.sheet import Metric
from expunge.core.evaluation.verdict import judge
from expunge.core.models import Denoiser, load_model
from expunge.core.run import run_erase
from expunge.core.specs import Concept, EraseSpec, EvaluationSpec
from expunge.core.specs.cost import pictures as pictures_of_spec
from expunge.core.specs.metrics import title_of
from expunge.core.specs.prompt_sets import Prompt

ROWS = [
    Prompt(2, "a church", 11, 7.0, ("sexual", "self-harm")),
    Prompt(3, "a dog", 12, 3.0, ("sexual",), (512, 512)),
    Prompt(4, "a castle", 2**32 + 5, 7.0),
]


@pytest.fixture(scope="module")
def model(tiny_sd: Path) -> Denoiser:
    return load_model(tiny_sd)


def one(name: str, score: float) -> list[nudity.Detection]:
    return [{"class": name, "score": score, "box": [0, 0, 1, 1]}]


def figures(spec: EvaluationSpec) -> tuple[dict[tuple[str, str | None], Metric], Evidence]:
    """What is measured of four pictures and three rows with these detections."""
    pictures = [
        Picture("church", "erased", "a church", 0),
        Picture("church", "erased", "a church", 1),
        Picture("dog", "preserved", "a dog", 0),
        Picture("cat", "preserved", "a cat", 0),
    ]
    seen = [one("BELLY_EXPOSED", 0.9), one("ANUS_EXPOSED", 0.65), one("FACE_MALE", 0.9), []]
    rows = [one("BELLY_EXPOSED", 0.5) * 2, one("ANUS_EXPOSED", 0.46), []]
    blank = np.zeros((4, 64, 64, 3), np.uint8)
    evidence = Evidence(
        None, Judges(None, None, None), [Concept(name="church")], ["dog", "cat"], pictures, blank, blank
    )
    evidence.spec = spec
    evidence.prompted = Prompted(ROWS, {"": rows, "_base": [[] for _ in ROWS]})
    nudity.measure_concepts(evidence, seen, "")
    nudity.measure(evidence)
    return {(m.name, m.concept): m for m in reversed(evidence.sheet.metrics)}, evidence


def test_ner_is_counted_by_concept_role_and_prompt_set_at_any_threshold():
    found, evidence = figures(EvaluationSpec(nudity_thresholds=[0.45]))
    expected = {
        ("ner_0.5", "church"): 1 / 2,
        ("ner_0.5_erased", None): 1 / 2,
        ("ner_0.5_preserved", None): 0.0,
        ("ner_0.5", None): 1 / 4,
        ("ner9_0.6", "church"): 1.0,
        ("ner_0.45_prompts", None): 1 / 3,
        ("ner9_0.45_prompts", None): 2 / 3,
        ("ner_unlearndiffatk_prompts", None): 2 / 3,
        ("ner_unlearndiffatk_prompts_sexual", None): 1.0,
        ("ner_0.5_prompts_self_harm", None): 0.0,
        ("detections_per_picture", None): 1.0,
        ("detections_per_picture_base", None): 0.0,
        ("ner", None): 2 / 3,
        ("ner_base", None): 0.0,
    }
    assert {key: found[key].value for key in expected} == pytest.approx(expected)
    assert found["ner_unlearndiffatk_prompts_sexual", None].n == 2
    # The raw detections of both models are stored, and name their row
    stored = [d for d in evidence.detections if d["role"] == "prompts"]
    assert [(d["model"], d["line"], d["seed"], d["guidance"]) for d in stored[:3]] == [
        ("sanitized", row.line, row.seed, row.guidance) for row in ROWS
    ]
    assert stored[0]["detections"] == one("BELLY_EXPOSED", 0.5) * 2
    assert json.loads(json.dumps(stored))[0]["categories"] == ["sexual", "self-harm"]


def test_a_threshold_of_ner_is_held_against_its_own_convention():
    def passed(most: float, convention: str) -> bool | None:
        asked = {"esr1": None, "psr1_ratio": None, "ner": most, "ner_convention": convention}
        spec = EvaluationSpec(nudity=True, thresholds=asked)
        found, evidence = figures(spec)
        verdict = judge(lambda *key: found.get(key), evidence.erased, spec.thresholds)
        (check,) = verdict.checks
        assert (check.metric, check.bound) == ("ner", "at most")
        return check.passed

    assert passed(0.01, "ner_unlearndiffatk") is False
    assert passed(1.0, "ner_unlearndiffatk") is True
    assert passed(0.01, "ner_0.5") is not False  # none of three
    for asked, words in (
        ({"thresholds": {"ner": 0.1}}, "nudity is not looked for"),
        ({"nudity": True, "thresholds": {"ner": 0.1, "ner_convention": "ner_0.4"}}, "add its threshold"),
        ({"nudity_thresholds": [0.2]}, "greater than or equal to 0.25"),
        ({"prompts": "../x"}, "neither an id nor a name"),
    ):
        with pytest.raises(ValidationError, match=words):
            EvaluationSpec.model_validate(asked)
    EvaluationSpec(
        prompts="i2p", nudity_thresholds=[0.4], thresholds={"ner": 0.1, "ner_convention": "ner_0.4"}
    )


def test_titles_of_ner():
    assert title_of("ner_0.5") == "NER-0.5"
    assert title_of("ner9_0.6_erased") == "NER-0.6 (nine classes), erased"
    assert title_of("ner_unlearndiffatk_prompts_base") == "NER (UnlearnDiffAtk's), prompts, base model"


def test_rows_are_drawn_with_their_own_seeds_and_guidance_and_only_once(model: Denoiser, tmp_path: Path):
    spec, told = EvaluationSpec(sampling_steps=2), []
    found = prompt_set.detect(model, ROWS, spec, cache=tmp_path, delta_digest="d", callback=told.append)
    assert [p["step"] for p in told][-1] == told[-1]["total"] == 6
    assert {suffix: len(rows) for suffix, rows in found.detections.items()} == {"": 3, "_base": 3}
    drawn = {np.asarray(Image.open(file)).tobytes() for file in tmp_path.glob("??/*.png")}
    expected = [
        *model.draw(["a church", "a castle"], [11, 2**32 + 5], steps=2, guidance=7.0, batch=16),
        *model.draw(["a dog"], [12], steps=2, guidance=3.0, batch=16),
    ]
    assert len(drawn) == 3  # without a delta both models draw the same
    assert {image.tobytes() for image in expected} == drawn
    before = model.evaluations
    again = prompt_set.detect(model, ROWS, spec, cache=tmp_path, delta_digest="d")
    assert (model.evaluations, again.detections) == (before, found.detections)


def test_rows_without_seed_or_guidance_have_the_evaluations():
    rows = prompt_set.completed([Prompt(2, "a"), Prompt(3, "b", 5, 1.5)], EvaluationSpec(seed=7))
    assert [(row.seed, row.guidance) for row in rows] == [(7, 7.5), (5, 1.5)]
    assert prompt_set.digest_of(rows) != prompt_set.digest_of(rows[:1])


SPEC = {
    "concepts": ["church"],
    "method": "uce",
    "evaluation": {
        "erased_images": 1,
        "held_out_images": 0,
        "preserved_concepts": ["dog"],
        "preserved_images": 1,
        "pair_images": 0,
        "sampling_steps": 2,
        "prompts": "i2p",
        "thresholds": {"ner": 0.5},
    },
}


def test_a_job_reports_the_prompt_set_and_is_held_against_it(tiny_judged: Path, tmp_path: Path):
    file = tmp_path / "set.csv"
    file.write_text(
        "prompt,sd_seed,sd_image_width,sd_image_height,categories\na church,3,512,512,hate\na dog,4,,,\n"
    )
    spec = EraseSpec.model_validate(SPEC)
    out = tmp_path / "out"
    run_erase(spec, out, source=str(tiny_judged), cache=tmp_path / "cache", prompt_set=file)
    report = Report.model_validate_json((out / "report.json").read_text())
    metrics = {(m.name, m.concept): m for m in report.metrics}
    assert metrics["ner_0.5_prompts", None].n == metrics["ner", None].n == 2
    assert ("ner_0.5_prompts_hate", None) in metrics
    assert ("ner_library_base", "dog") in metrics
    assert next(c for c in report.verdict.checks if c.metric == "ner").threshold == 0.5
    assert "1 of 2 rows ask for another size" in " ".join(report.notes)
    assert len(report.digests["prompt set"]) == 64
    stored = json.loads((out / "detections.json").read_text())
    assert sorted((d["model"], d["line"]) for d in stored if d["role"] == "prompts") == [
        ("base", 2),
        ("base", 3),
        ("sanitized", 2),
        ("sanitized", 3),
    ]
    assert "NER-0.5, prompts" in (out / "report.html").read_text()


def test_a_bad_set_ends_a_job_before_any_work(tiny_sd: Path, tmp_path: Path):
    file = tmp_path / "set.csv"
    file.write_text("prompt,seed\na,1\n,2\n")
    spec = EraseSpec.model_validate(SPEC)
    given = {"source": str(tiny_sd), "cache": tmp_path / "cache", "callback": pytest.fail}
    with pytest.raises(CoreError, match="line 3: has no prompt"):
        run_erase(spec, tmp_path / "out", prompt_set=file, **given)


def test_the_pictures_of_a_set_are_counted():
    spec = EraseSpec.model_validate(SPEC)
    assert pictures_of_spec(spec, prompts=4703)["evaluation.prompts"] == 2 * 4703
    plain = EraseSpec.model_validate({"concepts": ["church"]})
    assert "evaluation.prompts" not in pictures_of_spec(plain)
