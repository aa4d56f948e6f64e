"""Kept, apart: what the run held while training and what it did not, near and far."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from expunge.core.concepts import candidates
from expunge.core.erasure import erase
from expunge.core.evaluation import pictures
from expunge.core.evaluation.evidence import Evidence
from expunge.core.evaluation.judges import Judges
from expunge.core.evaluation.metrics import held_concepts
from expunge.core.evaluation.pictures import Picture
from expunge.core.models import Denoiser, load_model
from expunge.core.progress import ignore
from expunge.core.specs import METHODS, Concept, EraseSpec, EvaluationSpec
from tests.core.evaluation.test_metrics import colour_judge, plain

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
LITTLE = {
    "steps": 1,
    "trajectories": 1,
    "sampling_steps": 2,
    "batch_size": 1,
    "candidates": 3,
    "retain_concepts": 2,
    "attack_steps": 1,
    "pictures": 1,
    "leakage_pictures": 0,
    "rounds": 1,
    "strangers": 1,
}


@pytest.fixture
def model(tiny_sd: Path) -> Denoiser:
    return load_model(tiny_sd)


def small(name: str) -> dict[str, object]:
    """A method with as little to do as it takes."""
    fields = METHODS[name].model_fields
    own: dict[str, object] = {key: value for key, value in LITTLE.items() if key in fields}
    if "method" in fields:
        own["method"] = {"name": "esd", "trajectories": 1, "sampling_steps": 2, "batch_size": 1}
    return {"name": name, **own}


def held_by(model: Denoiser, name: str, **more: object) -> list[str]:
    spec = EraseSpec.model_validate({"concepts": ["church"], "method": small(name), **more})
    held: list[str] = erase(model, spec, callback=ignore).info["held"]
    return held


def test_every_method_says_what_it_held(tiny_sd: Path):
    near = candidates(load_model(tiny_sd), Concept(name="church"), [], 3)
    preserve = {"preserve": ["teapot"]}
    excluding_church = [c for c in load_model(tiny_sd).vocabulary.concepts if c != "church"]
    expected = {
        "age": {"teapot", *near},
        "ap": {"teapot", *near},
        "score": {"teapot", *near},
        "naive": {"teapot"},
        "text_encoder": {"teapot"},
        "esd": set(),
        "ant": set(),
        "all_but_one": set(),
        "time": set(),
        "ca": {near[0]},
        "erase_flow": set(),
        "stereo": {*excluding_church[:: max(1, len(excluding_church) // 16)][:16]},
        "uce": {"teapot"},
        "rece": {"teapot"},
        "mace": {*load_model(tiny_sd).vocabulary.concepts} - {"church"},
    }
    for name in METHODS:
        held = held_by(load_model(tiny_sd), name, **preserve)
        assert "church" not in held
        assert len(held) == len(set(held))
        if name in expected:
            assert set(held) == expected[name], name
        else:  # prune, AdvUnlearn and EraseAnything draw what they retain
            assert {"teapot"} < set(held), name


def test_a_vocabulary_without_a_concept_keeps_it_out_of_search_hold_and_retain_sets(tiny_sd: Path):
    for name in ("age", "mace", "prune", "adv_unlearn"):
        model = load_model(tiny_sd)
        near = candidates(model, Concept(name="church"), [], 3)
        model.vocabulary = model.vocabulary.without([near[0]])
        assert near[0] not in held_by(model, name)


def evidence(model: Denoiser, held: Sequence[str] | None) -> Evidence:
    """red and green are preserved; after the change green shows blue."""
    shown = [Picture(name, "preserved", name, seed) for name in ("red", "green") for seed in (0, 1)]
    base, after = plain(RED, RED, GREEN, GREEN), plain(RED, RED, BLUE, GREEN)
    judges = Judges(colour_judge(), None, None)
    return Evidence(model, judges, [Concept(name="church")], ["red", "green"], shown, base, after, held)


def found(seen: Evidence) -> dict[str, tuple[float, int]]:
    held_concepts.measure(seen)
    return {m.name: (m.value, m.n) for m in seen.sheet.metrics}


def test_psr_is_split_by_what_the_run_held(model: Denoiser):
    numbers = found(evidence(model, ["red", "teapot"]))
    assert numbers["psr1_held"] == (1.0, 2)
    assert numbers["psr1_unheld"] == (0.5, 2)
    assert numbers["psr1_unheld_base"] == (1.0, 2)
    assert {numbers["psr1_near"], numbers["psr1_far"]} == {(1.0, 2), (0.5, 2)}


def test_what_is_not_known_is_not_claimed(model: Denoiser):
    unknown, all_held = evidence(model, None), evidence(model, ["red", "green"])
    assert not {"psr1_held", "psr1_unheld"} & set(found(unknown))
    assert {m.metric for m in unknown.sheet.missing} == {"psr1_held", "psr1_unheld"}
    assert "psr1_unheld" not in found(all_held)
    assert [m.metric for m in all_held.sheet.missing] == ["psr1_unheld"]


def test_after_the_nearest_come_those_beyond_what_a_search_reaches_unheld_first():
    order = list(range(100))
    others = order[12:]
    assert pictures.beyond(order, others, others, 20)[:3] == [20, 21, 22]
    assert pictures.beyond(order, others, order[23:], 20)[:3] == [23, 24, 25]
    assert pictures.beyond(order, others, [], 20)[:3] == [20, 21, 22]  # MACE holds all
    few = order[:11]
    assert pictures.beyond(few, few[4:], few[4:], 20)[:2] == [4, 5]
    assert pictures.beyond(few, few[4:], few[6:], 20)[:2] == [6, 7]


def test_a_quarter_of_the_judged_are_the_nearest_that_the_run_did_not_hold(model: Denoiser):
    spec = EvaluationSpec(preserved_count=8)
    near = candidates(model, Concept(name="church"), [], 11)
    chosen = pictures.preserved_concepts(model, [Concept(name="church")], [], spec, near[:6])
    assert chosen[:6] == [*near[:4], *near[6:8]]
    assert len(chosen) == 8
