"""A diffusion's noise schedule, whatever sampler the checkpoint names: how much noise a timestep has, what
the network is asked to predict there, and what its prediction says of the picture.

z_t = sqrt(a) x + sqrt(1 - a) noise, a the cumulative product of the alphas at t. The network predicts the
noise (epsilon), v = sqrt(a) noise - sqrt(1 - a) x, or x itself (sample).
"""

from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

if TYPE_CHECKING:
    from diffusers import DDIMScheduler

Space = Literal["eps", "x0"]


class Schedule:
    """Noise levels and the network's target, for losses that are written on the network's own prediction.

    alphas: a for each training timestep, (T,), given on the CPU. t is (B,); latents and predictions are
    (B, C, h, w).
    """

    def __init__(
        self, alphas: Tensor, prediction: str = "epsilon", device: torch.device | str = "cpu"
    ) -> None:
        self.alphas, self.prediction = alphas.to(device), prediction
        # How many training timesteps leave something of the picture; they are the first. Counted on the CPU.
        self.visible = int((alphas > 0).sum())

    def __len__(self) -> int:
        return len(self.alphas)

    def level(self, t: Tensor) -> Tensor:
        """a at each t, shaped for latents: (B, 1, 1, 1)."""
        return self.alphas[t].view(-1, 1, 1, 1)

    def add_noise(self, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """z_t of clean latents x."""
        a = self.level(t)
        return a.sqrt() * x + (1 - a).sqrt() * noise

    def target(self, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the network should predict of z_t = add_noise(x, noise, t)."""
        a = self.level(t)
        match self.prediction:
            case "epsilon":
                return noise
            case "v_prediction":
                return a.sqrt() * noise - (1 - a).sqrt() * x
        return x

    def x0(self, z: Tensor, out: Tensor, t: Tensor) -> Tensor:
        """The clean latents that a prediction `out` of z_t stands for; 0 where z_t says nothing of them."""
        a = self.level(t)
        match self.prediction:
            case "epsilon":
                known = a > 0
                return (z - (1 - a).sqrt() * out) * known / a.where(known, 1).sqrt()
            case "v_prediction":
                return a.sqrt() * z - (1 - a).sqrt() * out
        return out

    def ancestral(self, z: Tensor, out: Tensor, t: Tensor, following: Tensor) -> tuple[Tensor, Tensor]:
        """DDPM's step from t to a lower timestep, `following` (B,), by a prediction `out` of z_t: the mean
        (B, C, h, w) of what follows and its deviation, (B, 1, 1, 1), which no prediction changes.

        Ho et al., 2020, Eq. 7, for steps of any length (DDIM's with eta 1; Song et al., 2021, Eq. 12 and 16).
        """
        a, b = self.level(t), self.level(following)
        x = self.x0(z, out, t)
        noise = (z - a.sqrt() * x) / (1 - a).sqrt()
        variance = (1 - b) / (1 - a) * (1 - a / b)
        return b.sqrt() * x + (1 - b - variance).clamp(min=0).sqrt() * noise, variance.sqrt()

    def weights(self, t: Tensor, space: Space) -> Tensor | None:
        """What a squared error of predictions weighs at each t, (B,); None: 1, the prediction's own space.

        In the picture's space (x0) it is |d x0 / d prediction|^2; where an epsilon says nothing of x0, a = 0,
        it is 0.
        """
        if space == "eps" or self.prediction == "sample":
            return None
        a = self.alphas[t]
        if self.prediction == "v_prediction":
            return 1 - a
        return ((1 - a) / a).where(a > 0, 0)


class Sampler:
    """DDIM on a schedule, in so many steps: the stock pipeline's steps, on what the network predicts.

    timesteps: (steps,), on the CPU, the noisiest first.
    """

    def __init__(self, scheduler: "DDIMScheduler", steps: int) -> None:
        self.scheduler = scheduler
        # On the CPU: its step reads them as numbers, and would wait for the device each time.
        scheduler.set_timesteps(steps)
        self.timesteps = scheduler.timesteps
        self.levels = scheduler.alphas_cumprod[self.timesteps]

    def __len__(self) -> int:
        return len(self.timesteps)

    @property
    def first(self) -> int:
        """The first step at which z_t has something of the picture (1 at zero terminal SNR, else 0)."""
        return len(self.timesteps) - int((self.levels > 0).sum())

    def is_blind(self, k: int) -> bool:
        """Whether a network that predicts the noise says nothing of the picture at step k."""
        return self.scheduler.config.prediction_type == "epsilon" and bool(self.levels[k] == 0)

    @property
    def moves(self) -> list[tuple[int, int]]:
        """The ancestral sampler's steps, each from one timestep to the next lower, 0 behind the last. Where
        the noisy latents say nothing of the picture, or no noise is left, there is no step.
        """
        lower = [*self.timesteps.tolist(), 0]
        return [
            (t, following)
            for k, (t, following) in enumerate(pairwise(lower))
            if t != following and not self.is_blind(k)
        ]

    def step(self, out: Tensor, k: int, z: Tensor) -> Tensor:
        """The latents after step k, from the network's prediction `out` of z."""
        following: Tensor = self.scheduler.step(out, self.timesteps[k], z).prev_sample
        return following


def ddim_of(scheduler: Any) -> "DDIMScheduler":
    """DDIM over the same noise, for a scheduler over betas (`expunge.core.layouts` refuses others).

    Every setting is taken over, also those that stand at the other class's defaults: these are not DDIM's.
    """
    from diffusers import DDIMScheduler  # here, as in load_model: it takes longer to import than torch

    config = {k: v for k, v in scheduler.config.items() if k != "_use_default_values"}
    if not isinstance(scheduler, DDIMScheduler):
        config["thresholding"] = False
        # DDIM's step is as long as in the other spacings: latents would miss their level
        if config.get("timestep_spacing") == "linspace":
            config["timestep_spacing"] = "trailing" if config.get("rescale_betas_zero_snr") else "leading"
    return DDIMScheduler.from_config(config, clip_sample=False)
