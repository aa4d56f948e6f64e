"""The shared loop: adapters off is the base model, bytes repeat, a killed run resumes to the same bytes."""

import pytest
import torch

from expunge.core.checkpoints import DirectoryCheckpoints
from expunge.core.concepts import candidates
from expunge.core.erasure import erase
from expunge.core.erasure.trajectory_buffer import Trajectories
from expunge.core.errors import CoreError
from expunge.core.models import load_model
from expunge.core.specs import (
    AdvUnlearnSpec,
    AgeSpec,
    AllButOneSpec,
    AntSpec,
    ApSpec,
    CaSpec,
    Concept,
    EraseAnythingSpec,
    EraseFlowSpec,
    EraseSpec,
    EsdSpec,
    LoraSpec,
    MaceSpec,
    NaiveSpec,
    PruneSpec,
    ScoreSpec,
    TextEncoderSpec,
    TextLoraSpec,
)
from tests.support.killed_runs import resumed_to_the_same_bytes

SMALL = {
    "steps": 6,
    "trajectories": 4,
    "sampling_steps": 4,
    "batch_size": 2,
    "checkpoint_every": 2,
    "lora": LoraSpec(rank=2),
}
TEXT = {**SMALL, "lora": TextLoraSpec(rank=2)}
INNER = {k: v for k, v in SMALL.items() if k in ("trajectories", "sampling_steps", "batch_size")}
PRUNE = {"steps": 6, "checkpoint_every": 2, "learning_rate": 1.0, "retain_concepts": 2}
METHODS = {
    "prune": PruneSpec(method=EsdSpec(**INNER), **PRUNE),
    "prune hard_concrete": PruneSpec(method=EsdSpec(**INNER), relaxation="hard_concrete", **PRUNE),
    "prune age": PruneSpec(method=AgeSpec(candidates=4, **INNER), **PRUNE),
    "prune score recomputed": PruneSpec(
        method=ScoreSpec(candidates=3, leakage_pictures=0, gradient_checkpointing=True, **INNER), **PRUNE
    ),
    "text_encoder": TextEncoderSpec(steps=6, checkpoint_every=2, lora=TextLoraSpec(rank=2)),
    "adv_unlearn": AdvUnlearnSpec(attack_steps=2, retain_concepts=2, **TEXT),
    "adv_unlearn fresh": AdvUnlearnSpec(attack_steps=1, retain_concepts=2, latents="fresh", **TEXT),
    "adv_unlearn refreshed": AdvUnlearnSpec(attack_steps=1, retain_concepts=2, refresh_every=3, **TEXT),
    "esd": EsdSpec(**SMALL),
    "naive": NaiveSpec(**SMALL),
    "naive recomputed": NaiveSpec(gradient_checkpointing=True, **SMALL),
    "ca": CaSpec(pictures=2, prior_weight=0.5, **SMALL),
    "ca frozen": CaSpec(pictures=2, anchor_network="frozen", **SMALL),
    "ant": AntSpec(**SMALL),
    "ant authors_code": AntSpec(variant="authors_code", **SMALL),
    "score": ScoreSpec(candidates=3, leakage_pictures=4, **SMALL),
    "erase_anything": EraseAnythingSpec(**SMALL),
    "mace": MaceSpec(**{**SMALL, "lora": LoraSpec(rank=1)}),
    "erase_flow": EraseFlowSpec(drawn_steps=1, **SMALL),
    "erase_flow fresh": EraseFlowSpec(drawn_steps=1, latents="fresh", **SMALL),
    "erase_flow refreshed": EraseFlowSpec(drawn_steps=1, refresh_every=3, **SMALL),
    "all_but_one": AllButOneSpec(**SMALL),
    "ap paper": ApSpec(candidates=4, **SMALL),
    "ap authors_code": ApSpec(candidates=4, variant="authors_code", **SMALL),
    "ap pgd": ApSpec(candidates=4, search="pgd", **SMALL),
    "age paper": AgeSpec(candidates=4, **SMALL),
    "age authors_code": AgeSpec(candidates=4, variant="authors_code", **SMALL),
    "age soft": AgeSpec(candidates=4, hard=False, **SMALL),
    "age refreshed": AgeSpec(candidates=4, refresh_every=3, **SMALL),
    "age fresh": AgeSpec(candidates=4, latents="fresh", **SMALL),
}


@pytest.mark.parametrize("name", METHODS)
def test_a_killed_run_resumes_to_the_same_bytes(name, tiny_sd, tmp_path):
    spec = EraseSpec(concepts=["church"], preserve=["teapot"], method=METHODS[name])
    resumed = resumed_to_the_same_bytes(tiny_sd, spec, 5, tmp_path, base=4)
    assert [h["step"] for h in resumed.info["history"]] == [1, 2, 3, 4, 5, 6]


def test_another_seed_gives_other_bytes(tiny_sd):
    spec = EraseSpec(concepts=["church"], method=METHODS["esd"])
    assert (
        erase(load_model(tiny_sd), spec).serialise()
        != erase(load_model(tiny_sd), spec.model_copy(update={"seed": 1})).serialise()
    )


def test_a_checkpoint_of_another_job_is_not_resumed(tiny_sd, tmp_path):
    one = EraseSpec(concepts=["church"], method=METHODS["esd"])
    erase(load_model(tiny_sd), one, checkpoints=DirectoryCheckpoints(tmp_path))
    other = erase(
        load_model(tiny_sd),
        one.model_copy(update={"concepts": [Concept(name="dog")]}),
        checkpoints=DirectoryCheckpoints(tmp_path),
    )
    assert other.info["resumed_at"] == 0


def test_a_damaged_checkpoint_falls_back_to_the_one_before(tiny_sd, tmp_path):
    spec = EraseSpec(concepts=["church"], method=METHODS["esd"])
    whole = erase(load_model(tiny_sd), spec, checkpoints=DirectoryCheckpoints(tmp_path)).serialise()
    newest = sorted(tmp_path.glob("step-*"))[-1] / "state.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    again = erase(load_model(tiny_sd), spec, checkpoints=DirectoryCheckpoints(tmp_path))
    assert again.info["resumed_at"] == 2
    assert again.serialise() == whole


def test_frozen_is_the_base_model_to_the_last_bit(tiny_sd):
    model, base = load_model(tiny_sd), load_model(tiny_sd)
    erase(model, EraseSpec(concepts=["church"], method=METHODS["esd"]))
    z, t, context = torch.randn(1, *model.latent_shape), torch.tensor([500]), base.encode(["church"])
    with torch.no_grad():
        assert not torch.equal(model.predict(z, t, context), base.predict(z, t, context))
        with model.frozen():
            assert torch.equal(model.predict(z, t, context), base.predict(z, t, context))
        reloaded = load_model(tiny_sd)
        reloaded.load_delta(model.lora_tensors())
        assert torch.equal(reloaded.predict(z, t, context), model.predict(z, t, context))


def test_only_the_adapter_is_trained_and_only_one_network_is_kept(tiny_sd):
    model = load_model(tiny_sd)
    before = {k: v.clone() for k, v in model.unet.state_dict().items()}
    erase(model, EraseSpec(concepts=["church"], method=METHODS["age paper"]))
    trained = [n for n, p in model.unet.named_parameters() if p.requires_grad]
    assert trained
    assert all("lora_" in n for n in trained)
    after = {k.replace(".base_layer", ""): v for k, v in model.unet.state_dict().items() if "lora_" not in k}
    assert all(torch.equal(after[k], before[k]) for k in before)


@pytest.mark.parametrize(
    "name", ["esd", "naive", "ca", "all_but_one", "ap paper", "age paper", "score", "mace", "erase_flow"]
)
def test_every_method_takes_a_style(name, tiny_sd):
    delta = erase(load_model(tiny_sd), EraseSpec(concepts=["in noto style"], method=METHODS[name]))
    assert all(v.isfinite().all() for v in delta.tensors.values())


@pytest.mark.parametrize("name", ["esd", "naive", "ca", "text_encoder", "adv_unlearn"])
def test_a_style_becomes_another_style_around_the_same_object(name, tiny_sd):
    seen: list[str | None] = []
    erase(
        load_model(tiny_sd),
        EraseSpec(concepts=["noto"], method=METHODS[name]),
        callback=lambda p: seen.append(p.get("target")),
    )
    assert seen[-1] == "twemoji"


def test_several_concepts_take_turns_and_each_gets_its_steps(tiny_sd):
    model = load_model(tiny_sd)
    evaluations: list[str | None] = []
    spec = EraseSpec(
        concepts=[Concept(name="church", target="mosque"), Concept(name="dog", target="cat")],
        method=METHODS["esd"],
    )
    delta = erase(
        model, spec, callback=lambda p: evaluations.append(p.get("target")) if p["phase"] == "erase" else None
    )
    assert evaluations == ["mosque", "cat"] * 6
    assert len(delta.info["history"]) == 12


def test_a_buffer_costs_far_fewer_evaluations_than_fresh_latents(tiny_sd):
    spec = {"steps": 20, "trajectories": 4, "sampling_steps": 10, "batch_size": 2, "lora": LoraSpec(rank=2)}
    buffered = erase(load_model(tiny_sd), EraseSpec(concepts=["church"], method=EsdSpec(**spec))).info[
        "unet_evaluations"
    ]
    fresh = erase(
        load_model(tiny_sd), EraseSpec(concepts=["church"], method=EsdSpec(latents="fresh", **spec))
    ).info["unet_evaluations"]
    assert buffered == 4 * 9 * 2 + 20 * 2 * 3
    assert fresh > 2 * buffered


def test_trajectories_drawn_together_are_each_those_drawn_alone(tiny_sd):
    model, spec = load_model(tiny_sd), EsdSpec(**SMALL)
    words = {name: model.encode([name, f"a {name}"]) for name in model.vocabulary.concepts}
    batches: list[int] = []
    together = Trajectories(model, spec, seed=3)
    together.prefill(words, 1, lambda p: batches.append(p["step"]))
    assert batches == [8, 12]
    for name, contexts in words.items():
        torch.testing.assert_close(
            together.kept[name],
            Trajectories(model, spec, seed=3).fill(name, contexts, 1),
            atol=1e-5,
            rtol=1e-4,
        )


def test_kept_trajectories_are_those_of_a_plain_ddim_loop(tiny_sd):
    model, spec = load_model(tiny_sd), EsdSpec(**SMALL)
    kept = Trajectories(model, spec, seed=3).fill("x", model.encode(["church"]), 2)
    scheduler, context, empty = model.scheduler, model.encode(["church", "church"]), model.encode(["", ""])
    scheduler.set_timesteps(4)
    z = kept[:, 0]
    with torch.no_grad():
        for i, t in enumerate(scheduler.timesteps):
            torch.testing.assert_close(kept[:, i], z, atol=1e-5, rtol=1e-4)
            eps_c, eps_0 = (model.unet(z, t, encoder_hidden_states=c.states).sample for c in (context, empty))
            z = scheduler.step(eps_0 + 3.0 * (eps_c - eps_0), t, z).prev_sample


def test_the_erased_concept_and_its_synonyms_are_never_candidates(tiny_sd):
    model = load_model(tiny_sd)
    church = Concept(name="Church", synonyms=["mosque", "SYNAGOGUE"])
    found = candidates(model, church, [church, Concept(name="dog")], 100)
    assert set(found) == set(model.vocabulary.concepts) - {"church", "mosque", "synagogue", "dog"}


@pytest.mark.parametrize(
    ("preset", "inside", "outside"),
    [
        ("xattn", "attn2.to_out.0", "attn1.to_q"),
        ("xattn_strict", "attn2.to_k", "attn2.to_q"),
        ("noxattn", "conv1", "attn2.to_k"),
        ("selfattn", "attn1.to_q", "attn2.to_q"),
        ("full", "conv_in", None),
        (["attn2.to_q"], "attn2.to_q", "attn2.to_k"),
    ],
)
def test_layer_presets_are_the_fields(preset, inside, outside, tiny_sd):
    names = load_model(tiny_sd).layers(preset)
    assert any(n.endswith(inside) for n in names)
    assert outside is None or not any(n.endswith(outside) for n in names)


@pytest.mark.parametrize("preset", ["xattn", "xattn_strict", "noxattn"])
def test_esd_trains_x_x_strict_and_u(preset, tiny_sd):
    method = EsdSpec(**SMALL | {"lora": LoraSpec(rank=2, target_modules=preset)})
    delta = erase(load_model(tiny_sd), EraseSpec(concepts=["church"], method=method))
    assert all((".attn2." in k) == (preset != "noxattn") for k in delta.tensors)
    assert all(v.isfinite().all() for v in delta.tensors.values())
    assert any(v.abs().max() > 0 for k, v in delta.tensors.items() if "lora_B" in k)


def test_an_unknown_module_is_named_in_the_error(tiny_sd):
    method = EsdSpec(**SMALL | {"lora": LoraSpec(target_modules=["no_such_layer"])})
    with pytest.raises(CoreError, match="no_such_layer") as caught:
        erase(load_model(tiny_sd), EraseSpec(concepts=["church"], method=method))
    assert caught.value.field == "method.lora.target_modules"


def test_a_loss_that_is_not_finite_fails_with_its_step(tiny_sd):
    model = load_model(tiny_sd)
    with torch.no_grad():
        model.unet.conv_out.bias[0] = float("nan")
    with pytest.raises(CoreError, match="at step 1 of 6") as caught:
        erase(model, EraseSpec(concepts=["church"], method=METHODS["esd"]))
    assert caught.value.code == "loss_not_finite"


def test_weights_that_are_no_numbers_are_never_kept_and_the_good_checkpoint_stays(tiny_sd, tmp_path):
    """F23: the loss of step 4 is finite, its gradient is not."""
    model, kept = load_model(tiny_sd), DirectoryCheckpoints(tmp_path)

    def poison(progress):
        if progress["phase"] == "erase" and progress["step"] == 3:
            name, weight = next(iter(model.adapter_state().items()))
            model.set_adapter_state(model.adapter_state() | {name: weight * float("inf")})

    spec = METHODS["esd"].model_copy(update={"steps": 6, "checkpoint_every": 2})
    with pytest.raises(CoreError) as caught:
        erase(model, EraseSpec(concepts=["church"], method=spec), checkpoints=kept, callback=poison)
    assert caught.value.code == "loss_not_finite"
    assert "step 4 of 6" in caught.value.message
    tensors, meta = kept.load()
    assert meta["step"] == 2
    assert all(
        bool(tensor.isfinite().all()) for name, tensor in tensors.items() if name.startswith("adapter.")
    )


def test_a_last_step_to_weights_that_are_no_numbers_is_never_delivered(tiny_sd):
    """No loss comes after it that could tell."""
    model, steps = load_model(tiny_sd), list[int]()
    right = model.gradients

    def overflown(loss, inputs):
        steps.append(len(steps) + 1)
        return [g * float("inf") for g in right(loss, inputs)] if len(steps) == 3 else right(loss, inputs)

    model.gradients = overflown
    with pytest.raises(CoreError, match="step 3 of 3") as caught:
        erase(model, EraseSpec(concepts=["church"], method=METHODS["esd"].model_copy(update={"steps": 3})))
    assert caught.value.code == "loss_not_finite"


@pytest.mark.parametrize("name", ["esd", "age paper", "ap paper", "score", "erase_anything", "erase_flow"])
def test_activations_computed_again_give_the_same_training(name, tiny_sd):
    deltas = [
        erase(
            load_model(tiny_sd),
            EraseSpec(
                concepts=["church"], method=METHODS[name].model_copy(update={"gradient_checkpointing": again})
            ),
        ).tensors
        for again in (False, True)
    ]
    assert any(v.abs().max() > 1e-4 for k, v in deltas[0].items() if "lora_B" in k)
    for name, tensor in deltas[0].items():
        torch.testing.assert_close(deltas[1][name], tensor, atol=1e-6, rtol=1e-3)
