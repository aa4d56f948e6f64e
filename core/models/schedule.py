"""The noise schedule of a checkpoint, whatever sampler it names, and what its network predicts, turned into
noise.
"""

from typing import Any

import torch
from diffusers import DDIMScheduler
from torch import Tensor


def ddim_of(scheduler: Any) -> DDIMScheduler:
    """DDIM over the same noise, for a scheduler over betas (`expunge.core.layouts` refuses others).

    Every setting is taken over, also those that stand at the other class's defaults: these are not DDIM's.
    """
    config = {k: v for k, v in scheduler.config.items() if k != "_use_default_values"}
    if not isinstance(scheduler, DDIMScheduler):
        config["thresholding"] = False
        # DDIM's step is as long as in the other spacings: latents would miss their level
        if config.get("timestep_spacing") == "linspace":
            config["timestep_spacing"] = "trailing" if config.get("rescale_betas_zero_snr") else "leading"
    return DDIMScheduler.from_config(config, clip_sample=False)


def epsilon(out: Tensor, z: Tensor, alphas: Tensor, prediction: str) -> Tensor:
    """The noise that a network's output says is in z (B, 4, h, w); `alphas` (B,), prediction 'epsilon',
    'v_prediction' or 'sample'.
    """
    if prediction == "epsilon":
        return out
    a = alphas.view(-1, 1, 1, 1)
    if prediction == "v_prediction":
        return a.sqrt() * out + (1 - a).sqrt() * z
    return (z - a.sqrt() * out) / (1 - a).sqrt()


def visible(scheduler: DDIMScheduler, timesteps: Tensor) -> Tensor:
    """Those of the timesteps, on the CPU, at which something of the picture is left: all but the last of a
    zero-terminal-SNR schedule.
    """
    return timesteps[scheduler.alphas_cumprod[timesteps] > 0]


def training_steps(scheduler: DDIMScheduler) -> int:
    """How many of the training timesteps are visible; they are the first."""
    return len(visible(scheduler, torch.arange(len(scheduler.alphas_cumprod))))
