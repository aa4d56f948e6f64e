"""Latents lie where the noise schedule says, whatever the network predicts and whichever sampler the
checkpoint names.
"""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from expunge.core.concepts.textual_inversion import loss as inversion_loss
from expunge.core.erasure import erase
from expunge.core.erasure.losses import errors
from expunge.core.erasure.trajectory_buffer import Trajectories
from expunge.core.errors import CoreError
from expunge.core.inspection import Side, latents
from expunge.core.models import Denoiser, load_model
from expunge.core.models.schedule import Schedule
from expunge.core.sampling import denoise, seeded
from expunge.core.specs import METHODS, CaSpec, EraseSpec, EsdSpec, InspectSpec

BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
ZERO = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "prediction_type": "v_prediction"}
SCHEDULES: dict[str, dict[str, Any]] = {
    "epsilon": {"prediction_type": "epsilon", "steps_offset": 1},
    "v": {"prediction_type": "v_prediction", "steps_offset": 1},
    "sample": {"prediction_type": "sample"},
    "trailing": {"timestep_spacing": "trailing"},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
    "trained betas": {"trained_betas": torch.linspace(0.01, 0.11, 1000).square().tolist()},
    "zero terminal SNR, v": ZERO,
    "zero terminal SNR, sample": ZERO | {"prediction_type": "sample"},
}
SPEC = EsdSpec(sampling_steps=5, trajectories=2, steps=2, batch_size=2, guidance_scale=3)


def with_scheduler(model: Path, folder: Path, name: str, config: dict[str, Any]) -> Path:
    """The tiny model with another scheduler's config."""
    shutil.copytree(model, folder)
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps({"_class_name": name, **config}))
    index = json.loads((folder / "model_index.json").read_text()) | {"scheduler": ["diffusers", name]}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def exact(model: Denoiser, x: torch.Tensor) -> None:
    """The network becomes the best denoiser there is of a data set of the one picture x, (4, h, w)."""
    prediction = model.scheduler.config.prediction_type

    def forward(z: torch.Tensor, t: torch.Tensor, encoder_hidden_states: torch.Tensor) -> SimpleNamespace:
        a = model.schedule.alphas[t].view(-1, 1, 1, 1)
        noise = (z - a.sqrt() * x) / (1 - a).sqrt()
        out = {
            "epsilon": noise,
            "v_prediction": a.sqrt() * noise - (1 - a).sqrt() * x,
            "sample": x.expand_as(z),
        }
        return SimpleNamespace(sample=out[prediction])

    model.unet.forward = forward


def level(model: Denoiser, x: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    a = model.schedule.alphas[t].view(-1, 1, 1, 1)
    return a.sqrt() * x + (1 - a).sqrt() * noise


def path_of(model: Denoiser, steps: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """An exact denoiser's latents, (steps, 4, h, w), and those that the schedule says, of one picture and one
    noise; and where they end.
    """
    x, first = torch.randn(2, *model.latent_shape, generator=seeded(1))
    exact(model, x)
    text, sampler = model.encode(["church"]), model.sampler(steps)
    *path, end = denoise(model, first[None], text, steps, SPEC.guidance_scale, steps)
    t = sampler.timesteps
    a = model.schedule.alphas[t[0]]
    noise = (first - a.sqrt() * x) / (1 - a).sqrt()
    return torch.cat(path), level(model, x, noise, t), (end[0] - x).norm() / x.norm()


@pytest.mark.parametrize("steps", [5, 20])
@pytest.mark.parametrize("name", SCHEDULES)
def test_latents_of_an_exact_denoiser_have_the_noise_of_their_timestep(name, steps, tiny_sd, tmp_path):
    model = load_model(with_scheduler(tiny_sd, tmp_path / "model", "DDIMScheduler", BETAS | SCHEDULES[name]))
    path, wanted, end = path_of(model, steps)
    torch.testing.assert_close(path, wanted, atol=2e-4, rtol=2e-4)
    assert end < 0.05  # and the picture is what they end in


@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_a_trajectory_is_the_stock_pipelines(name, spacing, tiny_sd, tmp_path):
    config = {"timestep_spacing": spacing} | BETAS | SCHEDULES[name]
    model = load_model(with_scheduler(tiny_sd, tmp_path / "model", "DDIMScheduler", config))
    noise, context, seen = (
        torch.randn(1, *model.latent_shape, generator=seeded(2)),
        model.encode(["church"]),
        list[torch.Tensor](),
    )

    def keep(
        pipe: Any, step: int, t: torch.Tensor, state: dict[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        seen.append(state["latents"])
        return state

    model.pipe(
        prompt_embeds=context.states,
        negative_prompt_embeds=model.encode([""]).states,
        latents=noise,
        num_inference_steps=5,
        guidance_scale=3,
        output_type="latent",
        callback_on_step_end=keep,
    )
    assert all(bool(z.isfinite().all()) for z in seen)
    path = denoise(model, noise, context, 5, SPEC.guidance_scale, 5)
    torch.testing.assert_close(path[1:], seen, atol=1e-5, rtol=1e-5)


OTHERS = {
    "PNDM as Stable Diffusion 1.5 has it": (
        "PNDMScheduler",
        BETAS | {"skip_prk_steps": True, "set_alpha_to_one": False, "steps_offset": 1},
    ),
    "Euler": (
        "EulerDiscreteScheduler",
        BETAS | {"timestep_spacing": "linspace", "prediction_type": "v_prediction"},
    ),
    "DPM++ with Karras' sigmas": (
        "DPMSolverMultistepScheduler",
        BETAS | {"use_karras_sigmas": True, "thresholding": True, "algorithm_type": "dpmsolver++"},
    ),
    "an old config": ("PNDMScheduler", BETAS),
    "betas that are the class's own": ("HeunDiscreteScheduler", {}),
    "a latent consistency model": ("LCMScheduler", {}),
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_familys_scheduler_gives_its_own_noise(name, tiny_sd, tmp_path):
    model = load_model(with_scheduler(tiny_sd, tmp_path / "model", *OTHERS[name]))
    assert torch.equal(model.scheduler.alphas_cumprod, model.pipe.scheduler.alphas_cumprod)
    assert model.scheduler.config.prediction_type == OTHERS[name][1].get("prediction_type", "epsilon")
    path, wanted, _ = path_of(model, 20)
    torch.testing.assert_close(path, wanted, atol=2e-4, rtol=2e-4)


def test_an_old_config_without_an_offset_has_the_stock_pipelines_timesteps(tiny_sd, tmp_path):
    model = load_model(with_scheduler(tiny_sd, tmp_path / "model", "DDIMScheduler", BETAS))
    for scheduler in (model.scheduler, model.pipe.scheduler):
        scheduler.set_timesteps(20)
    assert torch.equal(model.scheduler.timesteps, model.pipe.scheduler.timesteps)
    assert model.scheduler.timesteps[-1] == 1


@pytest.mark.parametrize(
    ("name", "config", "said"),
    [
        ("FlowMatchEulerDiscreteScheduler", {}, "FlowMatchEulerDiscreteScheduler"),
        ("EDMEulerScheduler", {}, "EDMEulerScheduler"),
        ("DDPMScheduler", {"beta_schedule": "sigmoid"}, "beta_schedule sigmoid"),
        (
            "DPMSolverMultistepScheduler",
            BETAS | {"prediction_type": "flow_prediction"},
            "prediction_type flow_prediction",
        ),
        ("DDIMScheduler", {"trained_betas": [0.1, 0.2]}, "2 trained_betas for 1000 timesteps"),
    ],
)
def test_a_scheduler_that_is_no_diffusion_over_betas_is_refused_by_name(
    name, config, said, tiny_sd, tmp_path
):
    with pytest.raises(CoreError, match=said) as refused:
        load_model(with_scheduler(tiny_sd, tmp_path / "model", name, config))
    assert refused.value.code == "model_not_supported"


@pytest.mark.parametrize("prediction", ["v_prediction", "epsilon"])
def test_where_nothing_of_the_picture_is_left_no_latents_are_taken(prediction, tiny_sd, tmp_path):
    model = load_model(
        with_scheduler(
            tiny_sd, tmp_path / "model", "DDIMScheduler", BETAS | ZERO | {"prediction_type": prediction}
        )
    )
    assert model.schedule.alphas[-1] == 0
    contexts = model.encode(["church", "a church"])
    for how in ("buffer", "fresh"):
        trajectories = Trajectories(model, SPEC.model_copy(update={"latents": how}), seed=0)
        assert trajectories.timesteps.tolist() == [799, 599, 399, 199]
        drawn = [trajectories.draw("church", contexts, seeded(k), 2, 2) for k in range(6)]
        assert all(bool(x.z.isfinite().all()) and 999 not in x.t.tolist() for x in drawn)
    assert trajectories.fill("church", contexts, 2).shape[1] == 4
    noised = Trajectories(model, CaSpec(sampling_steps=5), seed=0).noised(
        "church", contexts, seeded(0), 4000, 2
    )
    assert noised.t.max() == 998
    x = latents(
        Side(model),
        InspectSpec(
            artifact_id="00000000-0000-0000-0000-000000000000", sampling_steps=5, timesteps=4, trajectories=1
        ),
    )
    assert x.t.tolist() == [799, 599, 399, 199]


def test_a_row_of_pure_noise_weighs_nothing_and_is_no_division_by_zero():
    a, b = torch.ones(2, 4, 2, 2), torch.zeros(2, 4, 2, 2, requires_grad=True)
    schedule, t = Schedule(torch.tensor([0.0, 0.5])), torch.tensor([0, 1])
    weights = schedule.weights(t, "x0")
    assert errors(a, b, weights).tolist() == [0, 1]
    x = schedule.x0(torch.ones(2, 4, 2, 2), b, t)
    assert bool(x.isfinite().all())
    (gradient,) = torch.autograd.grad(errors(a, b, weights).sum() + x.sum(), b)
    assert bool(gradient.isfinite().all())


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_a_schedule_relates_what_the_network_predicts_to_the_picture(prediction):
    """The target, the picture of a prediction, and what the picture's space weighs, by hand in numpy."""
    alphas, t, g = torch.linspace(0.95, 0.05, 10), torch.tensor([1, 4, 8]), seeded(5)
    schedule = Schedule(alphas, prediction)
    x, noise, out = (torch.randn(3, 4, 2, 2, generator=g) for _ in range(3))
    a = alphas[t].double().numpy()[:, None, None, None]
    z = np.sqrt(a) * x.numpy() + np.sqrt(1 - a) * noise.numpy()
    wanted, pictured = {
        "epsilon": (noise.numpy(), (z - np.sqrt(1 - a) * out.numpy()) / np.sqrt(a)),
        "v_prediction": (
            np.sqrt(a) * noise.numpy() - np.sqrt(1 - a) * x.numpy(),
            np.sqrt(a) * z - np.sqrt(1 - a) * out.numpy(),
        ),
        "sample": (x.numpy(), out.numpy()),
    }[prediction]

    noised, target = schedule.add_noise(x, noise, t), schedule.target(x, noise, t)
    np.testing.assert_allclose(noised, z, atol=1e-5)
    np.testing.assert_allclose(target, wanted, atol=1e-5)
    np.testing.assert_allclose(schedule.x0(noised, target, t), x, atol=1e-4)
    np.testing.assert_allclose(schedule.x0(noised, out, t), pictured, atol=1e-4)
    # An error of predictions in the picture's space is the distance of the pictures they stand for.
    distance = np.square(pictured - x.numpy()).mean((1, 2, 3))
    np.testing.assert_allclose(errors(out, target, schedule.weights(t, "x0")), distance, rtol=1e-3)
    assert schedule.weights(t, "eps") is None


SMALL = {
    "steps": 3,
    "trajectories": 2,
    "sampling_steps": 4,
    "batch_size": 2,
    "candidates": 3,
    "pictures": 2,
    "leakage_pictures": 4,
    "retain_concepts": 2,
}
X0 = {
    "esd": {"space": "x0"},
    "naive": {"space": "x0"},
    "ca": {"space": "x0", "prior_weight": 0.5},
    "age": {"variant": "authors_code"},
    "ap": {"variant": "authors_code"},
    "score": {"space": "x0"},
    "ant": {"space": "x0"},
    "all_but_one": {"space": "x0"},
    "mace": {"lora": {"rank": 1}},
    "erase_anything": {},
    "adv_unlearn": {"space": "x0", "attack_steps": 1},
}


@pytest.mark.parametrize("name", X0)
def test_a_model_of_zero_terminal_snr_trains_to_finite_weights_in_the_pictures_space(name, tiny_sd, tmp_path):
    model = load_model(with_scheduler(tiny_sd, tmp_path / "model", "DDIMScheduler", BETAS | ZERO))
    fields = METHODS[name].model_fields
    method = METHODS[name](**{k: v for k, v in SMALL.items() if k in fields} | X0[name])
    delta = erase(model, EraseSpec(concepts=["church"], method=method))
    assert all(bool(v.isfinite().all()) for v in delta.tensors.values())


def test_textual_inversion_reads_any_prediction(tiny_sd, tmp_path):
    for i, schedule in enumerate(("v", "sample", "zero terminal SNR, v")):
        model = load_model(
            with_scheduler(tiny_sd, tmp_path / str(i), "DDIMScheduler", BETAS | SCHEDULES[schedule])
        )
        x, noise = torch.randn(2, 1, *model.latent_shape, generator=seeded(3))
        exact(model, x[0])
        for t in (1, 500, model.schedule.visible - 1):
            assert inversion_loss(model, x, noise, torch.tensor([t]), model.encode(["church"])) < 1e-6


def test_a_samplers_noise_is_each_rows_own_whatever_the_batch_and_the_global_generator(tiny_sd, tmp_path):
    model = load_model(with_scheduler(tiny_sd, tmp_path / "model", "EulerAncestralDiscreteScheduler", BETAS))
    prompts, seeds = ["church", "a dog", "a cat"], [5, 6, 7]
    torch.manual_seed(1)
    together = model.draw(prompts, seeds, steps=4)
    torch.manual_seed(2)
    alone = [model.draw([p], [s], steps=4)[0] for p, s in zip(prompts, seeds, strict=True)]
    again = model.draw(prompts[1:], seeds[1:], steps=4, batch=1)
    for k in range(3):
        assert abs(together[k].astype(int) - alone[k]).max() <= 1
    assert abs(again.astype(int) - together[1:]).max() <= 1


def test_the_side_of_the_latents_may_be_given_as_a_list(tiny_sd, tmp_path):
    folder = shutil.copytree(tiny_sd, tmp_path / "model")
    config = json.loads((folder / "unet" / "config.json").read_text())
    (folder / "unet" / "config.json").write_text(json.dumps(config | {"sample_size": [16, 16]}))
    assert load_model(folder).latent_shape == (4, 16, 16)
    for size in ([16, 24], None):
        (folder / "unet" / "config.json").write_text(json.dumps(config | {"sample_size": size}))
        with pytest.raises(CoreError, match="sample_size") as refused:
            load_model(folder)
        assert refused.value.code == "model_not_supported"
