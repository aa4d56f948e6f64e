"""What a loss sees of one step, and the error both spaces are measured in."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class Latents:
    """z: (B, 4, h, w); t: (B,)."""

    z: Tensor
    t: Tensor


def error(a: Tensor, b: Tensor, alphas: Tensor, space: Literal["eps", "x0"]) -> Tensor:
    """Mean squared error of two noise predictions (B, 4, h, w); in x0-space each row weighs (1 - a) / a, `alphas` (B,) being a.

    x0(eps) = (z - sqrt(1 - a) eps) / sqrt(a), so z cancels wherever the coefficients of a target add up to one.
    """
    squared = (a - b).square().flatten(1).mean(1)
    return (squared * ((1 - alphas) / alphas) if space == "x0" else squared).mean()


def guided_away(eps_t: Tensor, eps_c: Tensor, eta: float) -> Tensor:
    """eps_t - eta (eps_c - eps_t): the target's prediction, pushed away from the concept's."""
    return eps_t - eta * (eps_c - eps_t) if eta else eps_t


def cat(*latents: Latents) -> tuple[Tensor, Tensor]:
    """Several batches as one (z, t) for a single forward pass."""
    return torch.cat([x.z for x in latents]), torch.cat([x.t for x in latents])
