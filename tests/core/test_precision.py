"""What a model computes in: the dtype it is loaded in, and that every method is finite and near float32 in
each.
"""

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig

from expunge.core.checkpoints import DirectoryCheckpoints
from expunge.core.erasure import erase
from expunge.core.erasure.closed_form import columns, condensed, factors
from expunge.core.erasure.losses import error
from expunge.core.erasure.search import Ascent, Search
from expunge.core.erasure.visual_concepts import learn
from expunge.core.errors import CoreError
from expunge.core.hiding import hide
from expunge.core.inspection import Side, inspect
from expunge.core.models import Denoiser, Text, clip_text, load_model, loading
from expunge.core.models.scaling import gradients
from expunge.core.specs import METHODS, SPECS, EraseSpec, EsdSpec, InspectSpec
from tests.core.conftest import build_tiny_judges, build_tiny_sd
from tests.support.killed_runs import Killed, killed_at
from tests.support.small_jobs import IDS, RUNS, images

__all__ = ["images"]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", torch.bfloat16, torch.float32])
def test_a_model_is_loaded_in_the_dtype_asked_for_by_name_or_as_torchs(tiny_sd, dtype):
    model = load_model(tiny_sd, device="cpu", dtype=dtype)
    assert str(model.dtype).removeprefix("torch.") == str(dtype).removeprefix("torch.")
    assert {
        p.dtype for part in (model.unet, model.pipe.vae, model.pipe.text_encoder) for p in part.parameters()
    } == {model.dtype}


def test_a_cpu_computes_in_float32_and_an_unknown_dtype_is_refused_by_name(tiny_sd):
    assert load_model(tiny_sd, device="cpu").dtype == torch.float32
    with pytest.raises(CoreError, match="no model is loaded in 'int8': give float32, float16, bfloat16"):
        load_model(tiny_sd, device="cpu", dtype="int8")


@pytest.mark.parametrize(("has", "wanted"), [(True, torch.bfloat16), (False, torch.float16)])
def test_a_gpu_computes_in_bfloat16_where_it_has_it(monkeypatch, has, wanted):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: has)
    assert loading.fitting("cuda:0") == wanted


FEW = {"steps": 4, "trajectories": 2, "sampling_steps": 3, "batch_size": 2}
WORDS = {"rounds": 1, "steps": 2, "search_steps": 2, "search_batch": 2, "retain_concepts": 2}
NOISE = {"kind": "noise", "rounds": 1, "steps": 2, "retain_concepts": 2}
JOBS: dict[str, dict[str, Any]] = {name: asked for name, (_, asked) in RUNS.items() if name != "hide"} | {
    "prune": {"concepts": ["church"], "method": RUNS["prune"][1]["method"] | {"learning_rate": 1.0}},
    "hide by age": {
        "concepts": ["church"],
        "method": {"name": "age", "candidates": 3, **FEW},
        "recovery": {"length": 3, "steps": 2},
    },
    "ap pgd": {"concepts": ["church"], "method": {"name": "ap", "search": "pgd", "candidates": 3, **FEW}},
    "esd against words": {"concepts": ["church"], "method": {"name": "esd", "adversary": WORDS, **FEW}},
    "esd against noise": {"concepts": ["church"], "method": {"name": "esd", "adversary": NOISE, **FEW}},
    "age debias": {
        "concepts": [{"name": "dog", "attributes": ["wolf", "cat"]}],
        "method": {"name": "age", "debias": {"rounds": 0}, **FEW},
    },
    "prune hard_concrete": {
        "concepts": ["church"],
        "method": RUNS["prune"][1]["method"] | {"relaxation": "hard_concrete", "learning_rate": 1.0},
    },
    "prune by age": {
        "concepts": ["church"],
        "method": {
            "name": "prune",
            "steps": 4,
            "retain_concepts": 2,
            "learning_rate": 1.0,
            "method": {"name": "age", "candidates": 3, **{k: v for k, v in FEW.items() if k != "steps"}},
        },
    },
}
FAR = {"float16": 0.1, "bfloat16": 0.5}
"""How far the change of the noise predictions may be from float32's, as a share of it.

A few steps change predictions by about a hundredth, which float16 (eps 2^-11) resolves to some hundredths of
that, and bfloat16 (2^-8) to some tenths; Adam's first steps, which look at a gradient's sign alone, make of a
small gradient's error a whole step's.
"""
OF_A_WORD = 0.2
"""The same in float16 where words are learned first: the tiny model's have 32 numbers, and one that Adam
moves the other way is 18 % of a word's way (measured: 12.6 % with AVX2's kernels, 3.6 % without)."""

LARGER = ("prune by age",)
"""Jobs tried at the tiny model's own size: on small pictures too much hangs, in bfloat16, on the few entries
of a mask near its threshold, a whole weight's change each.
"""


@torch.no_grad()
def change(model: Denoiser) -> torch.Tensor:
    """eps' - eps of fixed prompts and latents."""
    z, t = (
        torch.randn(4, *model.latent_shape, generator=torch.Generator().manual_seed(0)),
        torch.tensor([200, 400, 600, 800]),
    )
    new = model.predict(z, t, model.encode(["church", "a church", "a dog", "a cat"]))
    with model.frozen():
        return new - model.predict(z, t, model.encode(["church", "a church", "a dog", "a cat"]))


@pytest.fixture(scope="session")
def small_judged(tmp_path_factory):
    """The tiny model at a quarter of its pictures' size, with judges of its own: a CPU computes float16 very
    slowly.
    """
    folder = build_tiny_sd(tmp_path_factory.mktemp("small_judged"), side=8)
    build_tiny_judges(folder / "judges")
    return folder


@pytest.mark.parametrize("name", JOBS)
def test_a_job_in_half_precision_is_finite_and_near_float32(name, small_judged, tiny_judged, images):
    """Every method of the registry, every kind of edit, words learned from pictures, and hiding."""

    @cache
    def run(dtype: str) -> tuple[torch.Tensor, list[float]]:
        model = load_model(tiny_judged if name in LARGER else small_judged, "cpu", dtype)
        if "recovery" in JOBS[name]:
            delta, keys = hide(model, SPECS["hide"].model_validate({"preserve": ["teapot"], **JOBS[name]}))
            assert all(bool(k.isfinite().all()) and k.dtype == torch.float32 for k in keys.values())
        else:
            spec = SPECS["erase"].model_validate({"preserve": ["teapot"], **JOBS[name]})
            delta = erase(model, learn(model, spec, images, lambda _: None, None)[0])
        assert all(bool(v.isfinite().all()) for v in delta.tensors.values() if v.is_floating_point())
        assert {v.dtype for v in delta.tensors.values()} == {
            torch.uint8 if delta.kind == "sparse_mask" else torch.float32
        }
        assert {p.dtype for ps in model.trained_layers().values() for p in ps} <= {torch.float32}
        return change(model), [h["loss"] for h in delta.info.get("history", [])]

    wanted, _ = run("float32")
    # The untrained judge sees one attribute alone, and moves nothing
    assert name == "debias" or wanted.norm() > 0
    for dtype, far in FAR.items():
        found, losses = run(dtype)
        assert bool(found.isfinite().all())
        assert all(np.isfinite(losses))
        if dtype == "float16" and "inversion" in JOBS[name]:
            far = OF_A_WORD
        assert (found - wanted).norm() <= far * wanted.norm(), dtype


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_an_inspection_in_half_precision_ranks_as_float32_does(dtype, small_judged):
    def moved(dtype: str) -> dict[str, float]:
        model = load_model(small_judged, "cpu", dtype)
        erase(model, EraseSpec(concepts=["church"], method=EsdSpec(learning_rate=1e-2, **FEW)))
        spec = InspectSpec(
            artifact_id=IDS[0], sampling_steps=4, timesteps=2, trajectories=1, concept="church", top=20
        )
        return {row.concept: row.moved for row in inspect(Side(model, base=True), Side(model), spec).ranking}

    found, wanted = moved(dtype), moved("float32")
    assert set(found) == set(wanted)
    assert all(
        found[w] == pytest.approx(wanted[w], rel={"float16": 0.1, "bfloat16": 0.5}[dtype]) for w in wanted
    )


def test_no_gradient_is_lost_in_float16(tiny_sd):
    """A loss whose gradients are below what float16 can hold, as they are at the size of Stable Diffusion and
    near the end of a training.
    """

    def zeros(dtype: str, scaled: bool) -> tuple[float, torch.Tensor]:
        model = load_model(tiny_sd, "cpu", dtype)
        model.add_adapter(
            LoraConfig(r=2, target_modules=["to_k", "to_v", "to_q"], init_lora_weights="gaussian")
        )
        parameters = [p for n, p in model.unet.named_parameters() if "lora_B" in n]
        z, t = (
            torch.randn(2, *model.latent_shape, generator=torch.Generator().manual_seed(0)),
            torch.tensor([300, 600]),
        )
        out = model.predict(z, t, model.encode(["church", "a church"]))
        loss = error(out, out.detach() + 0.01) / 4096
        found = model.gradients(loss, parameters) if scaled else torch.autograd.grad(loss, parameters)
        flat = torch.cat([g.float().flatten() for g in found])
        return float((flat == 0).float().mean()), flat

    torch.manual_seed(0)
    _, wanted = zeros("float32", True)
    torch.manual_seed(0)
    share, found = zeros("float16", True)
    torch.manual_seed(0)
    assert zeros("float16", False)[0] > 0.1
    assert share < 0.01
    assert torch.cosine_similarity(found, wanted, 0) > 0.99


def test_a_loss_that_is_too_large_for_its_scale_is_scaled_by_less():
    x = torch.tensor([100.0], requires_grad=True)
    # 2^16 times 100 is beyond float16
    (g,) = gradients((x.half() * x.half()).float().sum(), [x], torch.float16)
    assert g.item() == pytest.approx(200)
    assert gradients(x.sum(), [x, torch.zeros(1, requires_grad=True)], torch.float16)[1] is None


@pytest.mark.parametrize("name", ["esd", "age", "mace", "adv_unlearn"])
def test_a_killed_run_in_float16_resumes_to_the_same_bytes(name, small_judged, tmp_path):
    """Scaling has no memory that a checkpoint would have to keep."""
    spec = EraseSpec.model_validate({"concepts": ["church"], **RUNS[name][1]})
    whole = erase(load_model(small_judged, "cpu", "float16"), spec).serialise()
    with pytest.raises(Killed):
        erase(
            load_model(small_judged, "cpu", "float16"),
            spec,
            checkpoints=DirectoryCheckpoints(tmp_path),
            callback=killed_at("erase", 3),
        )
    resumed = erase(
        load_model(small_judged, "cpu", "float16"), spec, checkpoints=DirectoryCheckpoints(tmp_path)
    )
    assert resumed.info["resumed_at"] == 2
    assert resumed.serialise() == whole


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_search_over_half_precision_states_moves_and_stays_finite(dtype, small_judged):
    model = load_model(small_judged, "cpu", dtype)
    words = ["mosque", "castle", "dog"]
    texts = Text.stack([model.encode(model.vocabulary.prompts(w)) for w in words])
    assert texts.states.dtype == torch.float32
    rows, g = torch.tensor([0, 2]), torch.Generator().manual_seed(0)
    search, climb = (
        Search(words, texts, 0.1, 1.0, True),
        Ascent(words, Text(texts.states * 100), Text(texts.states[0] * 90), 0.1),
    )
    z, t = torch.randn(2, *model.latent_shape, generator=g), torch.tensor([300, 600])
    for one in (search, climb):
        before = [v.clone() for v in one.state().values()]
        weights = one.sample(g)
        one.ascend(model.predict(z, t, one.text(weights, rows)).square().mean() * 1e-4, model.gradients)
        after = list(one.state().values())
        assert all(bool(v.isfinite().all()) for v in after)
        assert not torch.equal(before[0], after[0])
    assert climb.sample(g).sum() == 1


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_delta_is_worn_in_float32_to_the_last_bit(dtype, small_judged):
    model = load_model(small_judged, "cpu", dtype)
    delta = erase(model, EraseSpec(concepts=["church"], method=EsdSpec(learning_rate=1e-2, **FEW)))
    trained = change(model)
    other = load_model(small_judged, "cpu", dtype)
    other.load_delta(delta.tensors)
    assert torch.equal(change(other), trained)
    assert all(torch.equal(other.lora_tensors()[k], v) for k, v in delta.tensors.items())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_small_delta_under_another_is_not_rounded_away(dtype, small_judged):
    """Folded into weights of half precision, most of a difference below their last bit would be gone."""
    whole = load_model(small_judged)
    delta = erase(whole, EraseSpec(concepts=["church"], method=EsdSpec(learning_rate=1e-4, **FEW)))
    z, t = (
        torch.randn(2, *whole.latent_shape, generator=torch.Generator().manual_seed(0)),
        torch.tensor([300, 600]),
    )
    name = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
    model = load_model(small_judged, "cpu", dtype)
    layer = model.unet.get_submodule(name)
    was, x = layer.weight.detach().clone(), torch.randn(5, layer.in_features)
    with torch.no_grad(), model.built_on(delta.tensors, delta.config, "0" * 64, []):
        moved = layer.weight.float() - was.float()
        assert layer(x.to(model.dtype)).dtype == model.dtype
        assert bool(model.predict(z, t, model.encode(["church", "dog"])).isfinite().all())
    up, down = (delta.tensors[f"unet.{name}.lora_{part}.weight"] for part in "BA")
    torch.testing.assert_close(moved, up @ down, atol=1e-6, rtol=1e-2)  # float32 has 1e-7 of the weight
    assert torch.equal(layer.weight, was)
    assert layer.weight.dtype == model.dtype


def test_what_is_held_is_condensed_without_changing_what_a_solve_reads(tiny_sd):
    model = load_model(tiny_sd)
    prompts = [p for w in model.vocabulary.concepts for p in model.vocabulary.prompts(w)]
    every, few = columns(model, prompts, "all").double(), condensed(model, prompts, "all")
    assert len(few) == every.shape[1] < len(every)
    torch.testing.assert_close(few.T @ few, every.T @ every)
    e, g = columns(model, ["church"], "last"), columns(model, ["mosque"], "last")
    for a, b in zip(factors(e, g, every, 0.1), factors(e, g, few, 0.1), strict=True):
        torch.testing.assert_close(a, b)


def test_text_states_that_are_remembered_are_bounded_and_the_last_asked_for(tiny_sd, monkeypatch):
    monkeypatch.setattr(clip_text, "KEPT_STATES", 4)
    model = load_model(tiny_sd)
    first = model.encode(["church", "dog", "cat"])
    model.encode(["church", "violin", "teapot"])
    assert list(model.text.kept) == ["cat", "church", "violin", "teapot"]
    many = model.encode([f"church {k}" for k in range(9)] + ["church"])
    assert len(model.text.kept) == 4
    assert torch.equal(many.states[-1], first.states[0])


def test_every_method_is_audited_and_tried_in_half_precision():
    assert set(METHODS) <= set(JOBS)
