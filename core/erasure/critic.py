"""SCORE's critic: it tells two sets of latents apart while the network learns to confuse it."""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.nn.utils.parametrizations import spectral_norm


class Critic(nn.Module):
    """PatchGAN on latents (B, 4, h, w) at times t (B,) in [0, 1): logits (B, patches) of "this is the
    concept"; spectral norm throughout.
    """

    def __init__(self, channels: int = 4, width: int = 32) -> None:
        super().__init__()
        self.time = nn.Linear(4, width)
        self.enter = spectral_norm(nn.Conv2d(channels, width, 3, padding=1))
        self.body = nn.Sequential(
            nn.LeakyReLU(0.2),
            spectral_norm(nn.Conv2d(width, 2 * width, 4, 2, 1)),
            nn.LeakyReLU(0.2),
            spectral_norm(nn.Conv2d(2 * width, 2 * width, 4, 2, 1)),
            nn.LeakyReLU(0.2),
            spectral_norm(nn.Conv2d(2 * width, 1, 3, padding=1)),
        )

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        waves = torch.cat(
            [torch.stack([(math.pi * f * t).sin(), (math.pi * f * t).cos()], 1) for f in (1.0, 4.0)], 1
        )
        out: Tensor = self.body(self.enter(x) + self.time(waves)[:, :, None, None])
        return out.flatten(1)


def bce(logits: Tensor, label: float) -> Tensor:
    """Binary cross-entropy of every patch against one label in [0, 1], a scalar in nats."""
    return binary_cross_entropy_with_logits(logits, torch.full_like(logits, label))
