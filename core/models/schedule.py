"""The noise schedule of a checkpoint, whatever sampler it names, and what its network predicts, turned into noise."""

from typing import Any

import torch
from diffusers import DDIMScheduler
from torch import Tensor

from core.errors import CoreError

PREDICTIONS = ("epsilon", "v_prediction", "sample")
BETAS = ("linear", "scaled_linear", "squaredcos_cap_v2")


def ddim_of(scheduler: Any) -> DDIMScheduler:
    """DDIM over the same noise. CoreError where the checkpoint's scheduler has no betas (a flow's, EDM's) or predicts something else.

    Every setting is taken over, also those that stand at the other class's defaults: these are not DDIM's.
    """
    name = type(scheduler).__name__
    config = {k: v for k, v in scheduler.config.items() if k != "_use_default_values"}
    betas, steps = config.get("trained_betas"), config.get("num_train_timesteps")
    if betas is None and config.get("beta_schedule") not in BETAS:
        raise unsupported(f"{name} with beta_schedule {config.get('beta_schedule')}", f"beta_schedule {', '.join(BETAS)}, or trained_betas")
    if betas is not None and len(betas) != steps:
        raise unsupported(f"{name} with {len(betas)} trained_betas for {steps} timesteps", "one of them for each timestep")
    if config.get("prediction_type", "epsilon") not in PREDICTIONS:
        raise unsupported(f"{name} with prediction_type {config['prediction_type']}", f"prediction_type {', '.join(PREDICTIONS)}")
    if not isinstance(scheduler, DDIMScheduler):
        config["thresholding"] = False
        if config.get("timestep_spacing") == "linspace":  # DDIM's step is as long as in the other spacings: latents would miss their level
            config["timestep_spacing"] = "trailing" if config.get("rescale_betas_zero_snr") else "leading"
    return DDIMScheduler.from_config(config, clip_sample=False)


def unsupported(what: str, needed: str) -> CoreError:
    return CoreError("unsupported_scheduler", f"the model's scheduler is {what}: erasing needs {needed}", field="model")


def epsilon(out: Tensor, z: Tensor, alphas: Tensor, prediction: str) -> Tensor:
    """The noise that a network's output says is in z (B, 4, h, w); `alphas` (B,), prediction one of PREDICTIONS."""
    if prediction == "epsilon":
        return out
    a = alphas.view(-1, 1, 1, 1)
    if prediction == "v_prediction":
        return a.sqrt() * out + (1 - a).sqrt() * z
    return (z - a.sqrt() * out) / (1 - a).sqrt()


def visible(scheduler: DDIMScheduler, timesteps: Tensor) -> Tensor:
    """Those of the timesteps, on the CPU, at which something of the picture is left: all but the last of a zero-terminal-SNR schedule."""
    return timesteps[scheduler.alphas_cumprod[timesteps] > 0]


def training_steps(scheduler: DDIMScheduler) -> int:
    """How many of the training timesteps are visible; they are the first."""
    return len(visible(scheduler, torch.arange(len(scheduler.alphas_cumprod))))
