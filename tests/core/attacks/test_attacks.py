"""Attacks: each does what it says on a tiny network, and succeeds where it must on the bundled one."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from expunge.core.attacks import Broken, attempt, rate_of, remembered, run_attacks
from expunge.core.attacks.control import product_norm, random_edit
from expunge.core.attacks.kept import Kept, trim
from expunge.core.attacks.result import AttackResult, Rate, status_of
from expunge.core.attacks.scene import HELD_OUT, Attempt, Scene, judged_prompts
from expunge.core.attacks.tokens import allowed_ids, read_tokens
from expunge.core.attacks.unlearn_diff_atk import project
from expunge.core.delivery.page import render_report
from expunge.core.delta_format import mask
from expunge.core.erasure import erase
from expunge.core.evaluation.evaluate import evaluate
from expunge.core.evaluation.judges import judges_for
from expunge.core.evaluation.judges.by_class import find_class
from expunge.core.evaluation.report import Report
from expunge.core.evaluation.verdict import judge
from expunge.core.intervals import wilson
from expunge.core.models import load_model
from expunge.core.models.vocabulary import TEMPLATES
from expunge.core.progress import ignore
from expunge.core.specs import Concept, EraseSpec, EvaluateSpec, EvaluationSpec, Thresholds
from expunge.core.specs.attacks import ATTACKS, NAMES, PRESETS, Attacks
from expunge.core.specs.attacks.relearn import RelearnSpec
from expunge.core.specs.cost import optimiser_steps, pictures
from tests.support.small_attacks import bright, never_seen, scene_of, spec_of

WORN = {
    "lora": {"name": "esd", "steps": 1, "batch_size": 1},
    "text_encoder_lora": {"name": "text_encoder", "steps": 1},
    "sparse_mask": {"name": "prune", "steps": 1, "method": {"name": "esd", "batch_size": 1}},
}


def wearing(tiny_sd: Path, kind: str):
    """A tiny network that wears a delta of the kind."""
    model = load_model(tiny_sd)
    erase(model, EraseSpec(concepts=["church"], method=WORN[kind]))
    return model


@pytest.fixture(scope="module")
def model(tiny_sd: Path):
    return wearing(tiny_sd, "lora")


@pytest.fixture(scope="module", params=list(WORN))
def any_model(tiny_sd: Path, request):
    return wearing(tiny_sd, request.param)


@pytest.mark.parametrize("name", NAMES)
def test_an_attack_draws_what_it_says_and_leaves_the_model_as_it_was(any_model, name):
    model = any_model
    before = {key: value.clone() for key, value in model.delta_tensors().items()}
    spec, told = spec_of(name), []
    made = attempt(Scene(**{**vars(scene_of(model, judge=never_seen)), "callback": told.append}), spec)
    assert made.images.dtype == np.uint8
    assert made.images.shape[1:] == (model.picture_side, model.picture_side, 3)
    assert len(made.images) == spec.images * made.together
    assert made.found
    steps = getattr(spec, "steps", None) or getattr(spec, "generations", None)
    assert [p["step"] for p in told][-1:] == ([steps] if steps else [])
    after = model.delta_tensors()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_a_paraphrase_draws_each_text_at_least_once(model):
    texts = ["a chapel", "CHURCH", "a minster"]
    scene = scene_of(model)
    made = attempt(scene, ATTACKS["paraphrase"](texts=texts, images=2))
    assert np.array_equal(made.images, scene.draw(texts, scene.own_seeds(3)))
    assert made.found == "a chapel; CHURCH; a minster"


def test_a_style_is_attacked_in_words_of_styles(model):
    scene = replace(scene_of(model), concept=Concept(name="in noto style"))
    prompts = judged_prompts(scene.model.vocabulary, scene.name, 4)
    assert all(text.count("in noto style") == 1 for text in prompts)
    ids = scene.model.text.vocabulary_ids()
    allowed = set(allowed_ids(scene.model, scene.concept).tolist())
    assert {ids["in</w>"], ids["style</w>"]} <= allowed
    assert ids["noto</w>"] not in allowed


def test_another_version_of_an_attack_is_attempted_anew(model, tmp_path, monkeypatch):
    spec, tried = spec_of("paraphrase"), []
    monkeypatch.setattr("expunge.core.attacks.attempt", lambda *given: tried.append(1) or attempt(*given))
    scene = scene_of(model, kept=Kept(tmp_path))
    for version in (1, 1, 2):
        monkeypatch.setattr(type(spec), "version", version)
        remembered(scene, spec, "d")
    assert len(tried) == 2


def test_relearning_is_judged_on_the_way(model):
    made = attempt(scene_of(model), spec_of("relearn", steps=3, judged_after=[1, 2, 9]))
    assert list(made.curve) == [1, 2]
    assert all(len(images) == 2 for images in made.curve.values())


def test_a_foreign_lora_is_trained_where_the_delta_is_off(model):
    """Trained beside the sanitized model or beside the base model, it is not the same LoRA."""
    drawn = [
        attempt(
            scene_of(model), spec_of("relearn", on="unrelated", trained_on=where, steps=4, learning_rate=0.1)
        ).images
        for where in ("sanitized", "base", "base")
    ]
    assert np.array_equal(drawn[1], drawn[2])
    assert not np.array_equal(drawn[0], drawn[1])


def test_bypass_draws_what_the_base_model_draws(model):
    scene = scene_of(model)
    made = attempt(scene, spec_of("bypass"))
    with model.frozen():
        expected = scene.draw_judged(2, lambda prompt: prompt)
    assert np.array_equal(made.images, expected)
    assert made.found == "the LoRA unloaded"


def test_without_added_noise_the_probe_draws_as_ddim_does(model):
    scene = scene_of(model, steps=5)
    spec = spec_of("noise_probe").model_copy(update={"etas": [0.0], "scales": [1.0]})
    probed = attempt(scene, spec).images.astype(int)
    drawn = scene.draw_judged(2, lambda prompt: prompt).astype(int)
    assert np.abs(probed - drawn).mean() < 2


def test_completion_begun_to_the_end_is_the_base_models_picture(model):
    scene = scene_of(model, steps=4)
    begun = attempt(scene, spec_of("completion", beginnings=[1.0])).images.astype(int)
    with model.frozen():
        base = scene.draw_judged(2, lambda prompt: prompt).astype(int)
    assert np.abs(begun - base).mean() < 2


def test_a_random_edit_of_a_mask_has_as_many_zeros(tiny_sd):
    model = wearing(tiny_sd, "sparse_mask")
    worn = {key: value.clone() for key, value in model.delta_tensors().items()}
    for key in worn:
        shape = model.weight(mask.layer_name(key)).shape
        third = (torch.arange(shape.numel()) % 3 > 0).view(shape).numpy()
        worn[key] = torch.from_numpy(mask.pack(third))
    model.load_delta(worn)
    with random_edit(model):
        edited = {key: value.clone() for key, value in model.delta_tensors().items()}
    assert edited.keys() == worn.keys()
    assert any(not torch.equal(edited[key], worn[key]) for key in worn)
    for key, bits in worn.items():
        shape = model.weight(mask.layer_name(key)).shape
        assert mask.unpack(edited[key].numpy(), shape).sum() == mask.unpack(bits.numpy(), shape).sum()
    after = model.delta_tensors()
    assert all(torch.equal(worn[key], after[key]) for key in worn)


def test_a_random_edit_has_each_layers_norm_and_is_taken_off_again(model):
    before = {key: value.clone() for key, value in model.adapter_state().items()}
    with random_edit(model):
        edited = model.adapter_state()
        for name in before:
            if ".lora_A." not in name:
                continue
            other = name.replace(".lora_A.", ".lora_B.")
            ours, theirs = (
                product_norm(before[other], before[name]),
                product_norm(edited[other], edited[name]),
            )
            assert theirs == pytest.approx(ours, rel=1e-3, abs=1e-6)
            assert ours == pytest.approx(float((before[other] @ before[name]).norm()), rel=1e-4, abs=1e-6)
        assert any(not torch.equal(before[key], edited[key]) for key in before)
    assert all(torch.equal(before[key], value) for key, value in model.adapter_state().items())


def test_no_token_of_an_attack_spells_the_concept(model):
    scene = scene_of(model)
    spelled = read_tokens(model, allowed_ids(scene.model, scene.concept).tolist())
    everything = read_tokens(model, sorted(model.text.vocabulary_ids().values()))
    assert "church" in everything
    words = spelled.lower().split()
    assert words
    assert not [word for word in words if (word in "church chapel" and len(word) > 2) or "church" in word]


def test_a_row_is_projected_onto_the_nearest_point_of_the_simplex():
    p = project(torch.tensor([[0.5, 0.5, 0.5], [3.0, 0.0, -1.0], [0.2, 0.3, 0.5]]))
    assert torch.allclose(p, torch.tensor([[1 / 3, 1 / 3, 1 / 3], [1.0, 0, 0], [0.2, 0.3, 0.5]]), atol=1e-6)


def test_held_out_prompts_are_in_no_methods_templates():
    assert not set(HELD_OUT) & set(TEMPLATES)


def test_the_best_attempt_counts_and_several_pictures_may_be_one_try():
    dark, light = (np.full((4, 4, 3), level, np.uint8) for level in (0, 255))
    attempts = [
        Attempt(np.stack([dark, dark, dark, light]), "first", together=2),
        Attempt(np.stack([light, dark, dark, light]), "second", together=2),
    ]
    rate, (images, hits) = rate_of(attempts, bright)
    assert (rate.asr, rate.n, rate.attempts, rate.found) == (1.0, 2, [0.5, 1.0], "second")
    assert hits.tolist() == [True, False, False, True]
    assert images is attempts[1].images


def rate(hits: int, n: int) -> Rate:
    low, high = wilson(hits, n)
    return Rate(asr=hits / n, n=n, ci_low=low, ci_high=high, attempts=[hits / n], found="")


def nothing(*_):
    """No metric was measured."""


@pytest.mark.parametrize(
    ("sanitized", "base", "status", "verdict", "cause"),
    [
        (rate(8, 16), rate(14, 16), "broken", "failed", "missed"),
        (rate(0, 16), rate(14, 16), "withstood", "passed", "reached"),
        (rate(0, 16), rate(3, 16), "not shown", "not shown", "weak_attack"),
        (rate(2, 16), rate(14, 16), "not shown", "not shown", "few_pictures"),
        (rate(0, 15), rate(14, 16), "not shown", "not shown", "few_pictures"),
        (rate(6, 100), rate(90, 100), "withstood", "passed", "reached"),
        (rate(16, 16), None, "broken", "failed", "missed"),
    ],
)
def test_what_an_attack_shows_and_what_the_verdict_says_of_it(sanitized, base, status, verdict, cause):
    assert status_of(sanitized, base) == status
    result = AttackResult(
        attack="inversion",
        concept="church",
        needs="weights",
        citation="",
        budget=ATTACKS["inversion"](),
        sanitized=sanitized,
        base=base,
        status=status,
        seconds=1,
    )
    thresholds = Thresholds(esr1=None, psr1_ratio=None)
    found = judge(nothing, [Concept(name="church")], thresholds, attacks=[result])
    (check,) = found.checks
    assert (check.status, check.cause, check.attack) == (verdict, cause, "inversion")
    assert found.status == verdict
    assert "inversion" in check.reason
    assert "None" not in check.reason
    left_out = thresholds.model_copy(update={"asr": None})
    assert judge(nothing, [], left_out, attacks=[result]).checks == []


def test_an_attack_that_needs_the_base_model_decides_nothing():
    assert {name for name, spec in ATTACKS.items() if not spec.decides} == {"bypass", "completion", "relearn"}


def run(model, cache, judge=bright, attacks=("paraphrase",), callback=ignore) -> list[Broken]:
    return list(
        run_attacks(
            model,
            Concept(name="church"),
            [spec_of(name, restarts=2) for name in attacks],
            judge,
            EvaluationSpec(sampling_steps=2),
            others=["dog"],
            cache=cache,
            delta_digest="d",
            callback=callback,
        )
    )


def test_an_attack_meets_the_sanitized_model_the_base_model_and_a_random_edit(model, tmp_path):
    told = []
    (found,) = run(model, tmp_path, judge=lambda images: np.arange(len(images)) > 0, callback=told.append)
    assert found.result.base is not None
    assert found.result.control is not None
    assert len(found.result.sanitized.attempts) == 2
    assert len(found.images) == len(found.hits)
    (every,) = run(model, tmp_path, judge=lambda images: np.ones(len(images), bool))
    assert every.result.sanitized.attempts == [1.0]  # no further attempt is better
    found = run(model, tmp_path, attacks=["transfer"], callback=told.append)
    steps = [p["step"] / p["total"] for p in told if "transfer" in p["message"]]
    assert steps == sorted(steps)
    assert {p["phase"] for p in told} == {"attack"}


def without_time(broken: Broken) -> dict[str, Any]:
    return broken.result.model_dump(exclude={"seconds"})


def test_what_is_kept_is_not_run_again_and_is_judged_anew(model, tmp_path, monkeypatch):
    first = run(model, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(type(model), "draw", None)  # drawing anything would fail
        again = run(model, tmp_path)
        all_hits = run(model, tmp_path, judge=lambda images: np.ones(len(images), bool))
    assert again[0].result.model_copy(update={"seconds": 0}) == first[0].result.model_copy(
        update={"seconds": 0}
    )
    assert all_hits[0].result.sanitized.asr == 1.0


def test_a_file_that_is_not_whole_is_made_anew_and_the_oldest_are_deleted(tmp_path):
    kept, made = Kept(tmp_path), []

    def make():
        made.append(1)
        return {"x": torch.zeros(1000)}, "text"

    kept.get({"n": 1}, make)
    assert kept.get({"n": 1}, make)[1] == "text"
    assert len(made) == 1
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:100])
    kept.get({"n": 1}, make)
    assert len(made) == 2
    kept.get({"n": 2}, make)
    trim(tmp_path, limit=5000)
    assert len(list(tmp_path.iterdir())) == 1


def test_presets_and_names_stand_for_attacks():
    field = TypeAdapter(Attacks)
    for name, listed in PRESETS.items():
        assert [each.name for each in field.validate_python(name)] == [each["name"] for each in listed]
    assert [each.name for each in field.validate_python(["inversion"])] == ["inversion"]
    assert EvaluationSpec().attacks == []
    with pytest.raises(ValidationError, match="inversion"):
        EvaluationSpec(attacks=["inversoin"])
    with pytest.raises(ValidationError, match="images"):
        EvaluationSpec(attacks=[{"name": "bypass", "images": 100_000}])
    assert json.loads(EvaluationSpec(attacks="quick").model_dump_json())["attacks"][-1]["steps"] == 300


def test_attacks_are_counted_in_what_a_job_costs():
    attacks = [{"name": "inversion", "steps": 100, "restarts": 2, "images": 10, "lessons": 5}, "bypass"]
    asked = {"job_id": "0" * 8 + "-0000-4000-8000-" + "0" * 12, "evaluation": {"attacks": attacks}}
    spec = EvaluateSpec.model_validate(asked)
    assert optimiser_steps(spec, judged=2) == {"evaluation.attacks": 3 * 2 * 100 * 2}
    assert pictures(spec, judged=2)["evaluation.attacks"] == 3 * (2 * 15 + 16) * 2
    relearn = RelearnSpec(steps=60, judged_after=[10, 50, 200], images=4, lessons=3)
    assert relearn.drawn() == 3 + 4 * 3


SEARCHES = ("inversion", "unlearn_diff_atk", "p4d")


@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_ends_where_every_judged_picture_shows_the_concept(tiny_sd: Path, name: str):
    """At its second look, with what a search of so many steps would have come to."""
    looks: list[np.ndarray] = []

    def second_time(images: np.ndarray) -> np.ndarray:
        looks.append(images)
        return np.full(len(images), len(looks) > 1)

    steps: list[int] = []
    scene = replace(
        scene_of(load_model(tiny_sd), judge=second_time), callback=lambda p: steps.append(p["step"])
    )
    more = {"learning_rate": 1.0} if name == "p4d" else {}  # or its tokens stay those it began with
    found = attempt(scene, spec_of(name, steps=30, **more))
    assert (max(steps), len(looks)) == (20, 2)
    assert np.array_equal(found.images, looks[1])
    assert not np.array_equal(looks[0], looks[1])
    shorter = attempt(scene_of(load_model(tiny_sd), judge=never_seen), spec_of(name, steps=20, **more))
    assert torch.equal(found.vectors, shorter.vectors)
    assert np.array_equal(found.images, shorter.images)


@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_that_never_succeeds_takes_all_its_steps(tiny_sd: Path, name: str):
    steps: list[int] = []
    scene = replace(
        scene_of(load_model(tiny_sd), judge=never_seen), callback=lambda p: steps.append(p["step"])
    )
    attempt(scene, spec_of(name, steps=6))
    assert max(steps) == 6


def test_a_search_looks_at_few_pictures_before_it_draws_them_all(tiny_sd: Path):
    drawn: list[int] = []

    def draw(count: int) -> np.ndarray:
        drawn.append(count)
        return np.zeros((count, 2, 2, 3), np.uint8)

    model = load_model(tiny_sd)
    for sees, wanted in ((never_seen, [4]), (lambda images: np.full(len(images), True), [4, 16])):
        scene = scene_of(model, judge=sees)
        assert scene.has_won(draw, 16, 100, 300) == (len(wanted) == 2)
        assert drawn == wanted
        assert not any(scene.has_won(draw, 16, step, 300) for step in (1, 99, 150, 300))
        assert drawn == wanted
        drawn.clear()


@pytest.mark.slow
def test_an_inversion_brings_back_what_uce_hides():
    """A red team that finds nothing anywhere is broken: half of the default's batch is enough."""
    model = load_model("bundled:emoji")
    erase(model, EraseSpec(concepts=["church"], method="uce"))
    seen = find_class(["church"], judges_for("bundled:emoji"), model.vocabulary)
    scene = Scene(
        model,
        Concept(name="church"),
        [],
        lambda images: seen.look(images).shown[1],
        steps=20,
        guidance=EvaluationSpec().guidance_scale,
        batch=16,
        seed=0,
        kept=Kept(None),
    )
    plain_prompt = rate_of([attempt(scene, ATTACKS["paraphrase"](texts=["a church"], images=8))], scene.judge)
    assert plain_prompt[0].asr <= 0.25
    found, _ = rate_of([attempt(scene, ATTACKS["inversion"](images=12, batch_size=4))], scene.judge)
    assert found.asr >= 0.5, found


def test_a_report_says_what_attacks_came_to(tiny_judged: Path, tmp_path):
    model = load_model(tiny_judged)
    erase(model, EraseSpec(concepts=["church"], method={"name": "esd", "steps": 1, "batch_size": 1}))
    spec = EvaluationSpec(
        erased_images=2,
        preserved_images=2,
        preserved_count=2,
        sampling_steps=2,
        attacks=[spec_of("paraphrase").model_dump(), spec_of("relearn").model_dump(), "bypass"],
    )
    found = evaluate(
        model,
        [Concept(name="church")],
        spec,
        judges=judges_for(tiny_judged),
        cache=tmp_path,
        delta_digest="d",
    )
    value = found.report.value
    assert value("asr", "church") is not None
    assert (value("err") is None) == (value("psr1_ratio") is None)  # ERR joins attacks and what was kept
    rates = {(m.name, m.attack): m for m in found.report.metrics if m.attack}
    assert {attack for _, attack in rates} == {"paraphrase", "relearn", "bypass"}
    assert ("asr_base", "relearn") in rates
    assert ("asr_control", "relearn") in rates
    assert ("asr_base", "bypass") not in rates
    for result in found.report.attacks:
        assert rates["asr", result.attack].value == result.sanitized.asr
    page = render_report(found, [], {"title": "t", "summary": "s", "limits": [], "details": {}})
    assert "<h2>Attacks</h2>" in page
    assert page.count("the best attempt") == 3
    assert "Success of relearn by step" in page
    again = Report.model_validate_json(found.report.model_dump_json())
    assert again.attacks[1].sanitized.curve == found.report.attacks[1].sanitized.curve
    assert again.attacks[1].budget.name == "relearn"
