"""Inspection, Eq. 19: its two terms, its order, what is never ranked, and the bundle."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from expunge.core.delivery.verify import verify
from expunge.core.erasure import erase
from expunge.core.inspection import Inspection, Side, inspect, latents, score, terms
from expunge.core.models import load_model
from expunge.core.run import run_inspect
from expunge.core.specs import EraseSpec, InspectSpec

JOB = "0b0d6f2e-6a43-4f0c-9d6b-2f6f5f6d9b11"
OTHER = "5d1f0c7b-3c52-4b6e-8f11-0a9a4c1f2e33"
QUICK = {"job_id": JOB, "trajectories": 2, "timesteps": 2, "sampling_steps": 4, "pictures": 0}


def spec(**more: object) -> InspectSpec:
    return InspectSpec.model_validate(QUICK | more)


@pytest.fixture(scope="module")
def deltas(tiny_sd: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """church and dog, each taken out of the tiny model by UCE."""
    found = {}
    for concept in ("church", "dog"):
        request = EraseSpec.model_validate({"concepts": [concept], "method": {"name": "uce", "ridge": 5}})
        found[concept] = erase(load_model(tiny_sd), request).save(tmp_path_factory.mktemp(concept))
    return found


@pytest.fixture
def model(tiny_sd: Path, deltas: dict[str, Path]):
    model = load_model(tiny_sd)
    model.load_delta(deltas["church"])
    return model


def test_the_terms_are_eq_19_s():
    rng = np.random.default_rng(0)
    changed, old, new = (
        rng.normal(size=(3, 4, 2, 2)),
        rng.normal(size=(5, 3, 4, 2, 2)),
        rng.normal(size=(5, 3, 4, 2, 2)),
    )
    away, moved = terms(*(torch.from_numpy(a) for a in (changed, old, new)))
    for c in range(5):
        assert float(away[c]) == pytest.approx(np.mean((changed - old[c]) ** 2))
        assert float(moved[c]) == pytest.approx(np.mean((new[c] - old[c]) ** 2))
        assert float(score(away, moved, 7.0)[c]) == pytest.approx(
            np.mean((changed - old[c]) ** 2) + 7 * np.mean((new[c] - old[c]) ** 2)
        )


@pytest.mark.parametrize("locality", [0.0, 10.0])
def test_the_ranking_is_eq_19_computed_concept_by_concept(model, locality: float):
    asked = spec(concept="church", locality=locality, top=50)
    found = inspect(Side(model, base=True), Side(model), asked)
    x = latents(Side(model, base=True), asked)

    def eps(word: str) -> np.ndarray:
        states = model.pipe.text_encoder(
            model.pipe.tokenizer(
                f"a photo of a {word}", padding="max_length", max_length=32, return_tensors="pt"
            ).input_ids
        )[0]
        rows = [
            model.unet(z[None], t, encoder_hidden_states=states).sample[0].numpy()
            for z, t in zip(x.z, x.t, strict=True)
        ]
        return np.stack(rows).astype(np.float64)

    words = [w for w in model.vocabulary.concepts if w != "church"]
    with torch.no_grad():
        became, new = eps("church"), {w: eps(w) for w in words}
        model.unet.disable_adapters()
        old = {w: eps(w) for w in words}
        model.unet.enable_adapters()
    wanted = {w: ((became - old[w]) ** 2).mean() + locality * ((new[w] - old[w]) ** 2).mean() for w in words}
    assert [r.concept for r in found.ranking] == sorted(words, key=lambda w: -wanted[w])
    for row in found.ranking:
        assert row.score == pytest.approx(wanted[row.concept], rel=1e-3)
        assert row.moved == pytest.approx(((new[row.concept] - old[row.concept]) ** 2).mean(), rel=1e-3)


def test_nothing_moves_between_a_model_and_itself(tiny_sd: Path):
    model = load_model(tiny_sd)
    found = inspect(Side(model), Side(model), spec(concept="church"))
    assert found.most_moved
    assert all(row.moved == 0 for row in found.most_moved)


def test_what_was_changed_is_found_and_neither_it_nor_its_forms_are_ranked(model):
    words = ["dog", "churches", "Church", "church", "teapot", "mosque", "violin"]
    alone = inspect(Side(model, base=True), Side(model), spec(concept_space=words))
    assert alone.found
    assert alone.changed == alone.most_moved[0].concept
    named = inspect(
        Side(model, base=True),
        Side(model),
        spec(concept_space=words, concept={"name": "church", "synonyms": ["mosque"]}),
    )
    assert (named.found, named.changed) == (False, "church")
    assert {row.concept for row in named.ranking} == {"dog", "teapot", "violin"}
    rows = {row.concept: row.moved for row in named.most_moved}
    assert {row.concept: row.moved for row in alone.most_moved} == pytest.approx(rows)


def test_the_bundle_holds_the_ranking_drawn_with_pictures_and_is_sealed(
    tiny_sd: Path, deltas: dict[str, Path], tmp_path: Path
):
    seen: list[str] = []
    asked = spec(concept="church", pictures=1, top=5)
    outcome = run_inspect(
        asked,
        tmp_path / "out",
        source=str(tiny_sd),
        delta=deltas["church"],
        cache=tmp_path / "cache",
        signing_key=tmp_path / "key",
        callback=lambda p: seen.append(p["phase"]),
    )
    assert outcome.verdict is None
    assert {o.name for o in outcome.outputs} == {
        "report.json",
        "report.html",
        "manifest.json",
        "manifest.sig",
        "certificate.json",
    }
    assert list(dict.fromkeys(seen)) == ["load", "inspect", "evaluate", "deliver"]
    report = Inspection.model_validate_json((tmp_path / "out" / "report.json").read_text())
    assert len(report.ranking) == 5
    page = (tmp_path / "out" / "report.html").read_text()
    assert all(row.concept in page for row in report.ranking)
    assert page.count("data:image/png") == 2 * (1 + 5)
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["ranking"] == [
        row.concept for row in report.ranking
    ]
    verify(tmp_path / "out")


def test_two_deltas_are_compared_with_one_another(tiny_sd: Path, deltas: dict[str, Path], tmp_path: Path):
    kwargs = {"source": str(tiny_sd), "cache": tmp_path / "cache"}
    run_inspect(spec(), tmp_path / "one", delta=deltas["church"], against=deltas["dog"], **kwargs)
    run_inspect(spec(), tmp_path / "same", delta=deltas["dog"], against=deltas["dog"], **kwargs)
    one, same = (
        Inspection.model_validate_json((tmp_path / n / "report.json").read_text()) for n in ("one", "same")
    )
    assert one.mean_moved > 0
    assert same.mean_moved == 0
    assert one.digests["theta"] == same.digests["theta_prime"] != one.digests["theta_prime"]


def test_after_erasing_church_its_neighbours_lead_and_lambda_sets_how_near_to_look():
    model = load_model("bundled:emoji")
    erase(model, EraseSpec.model_validate({"concepts": ["church"], "method": {"name": "uce", "ridge": 50}}))
    words = [
        "apple",
        "church",
        "mosque",
        "dog",
        "trumpet",
        "synagogue",
        "car",
        "shrine",
        "fish",
        "violin",
        "pizza",
        "japanese castle",
    ]
    near = {"mosque", "synagogue", "shrine"}
    asked = {"concept_space": words, "trajectories": 1, "timesteps": 2, "sampling_steps": 10}
    found = inspect(Side(model, base=True), Side(model), spec(**asked))
    assert (found.changed, found.found) == ("church", True)
    assert {row.concept for row in found.ranking[:3]} == near
    far = inspect(Side(model, base=True), Side(model), spec(**asked, locality=0))
    assert {row.concept for row in far.ranking[:3]} != near
    assert far.ranking[0].moved < found.ranking[0].moved


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"artifact_id": JOB}, "exactly one of"),
        ({"job_id": None}, "exactly one of"),
        ({"against_job_id": JOB}, "the inspected model itself"),
        ({"against_job_id": OTHER, "against_artifact_id": OTHER}, "at most one of"),
        ({"timesteps": 9}, "raise sampling_steps"),
        ({"concept_space": "french"}, "is not a concept space"),
        ({"locality": -1}, "greater than or equal"),
    ],
)
def test_a_spec_that_makes_no_sense_is_refused(change: dict[str, object], words: str):
    with pytest.raises(ValueError, match=words):
        spec(**change)


@pytest.mark.parametrize("concept", ["church", None])
def test_the_work_is_bounded_and_said_before_it_begins(model, concept: str | None):
    said: list[str] = []
    asked = spec(concept=concept, most_words=5)
    latents(Side(model, base=True), asked)
    begun = model.evaluations
    latents(Side(model, base=True), asked)
    trajectories = model.evaluations - begun
    begun = model.evaluations
    found = inspect(Side(model, base=True), Side(model), asked, lambda p: said.append(p["message"]))
    assert found.words == 5
    told = re.fullmatch(r"5 of the space's 1\d words: (\d+) evaluations of the U-Net", said[0])
    assert told is not None
    read = model.evaluations - begun - trajectories
    # And what became of the concept, once
    assert 0 <= read - int(told[1]) <= asked.trajectories * asked.timesteps
