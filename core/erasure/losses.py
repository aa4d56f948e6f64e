"""What a loss sees of one step, and the error both spaces are measured in."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class Latents:
    """z: (B, 4, h, w); t: (B,); where clean latents were noised, noise (B, 4, h, w), and row (B,): which of
    the contexts each was drawn with.
    """

    z: Tensor
    t: Tensor
    noise: Tensor | None = None
    row: Tensor | None = None


def errors(a: Tensor, b: Tensor, alphas: Tensor, space: Literal["eps", "x0"]) -> Tensor:
    """Mean squared error of each row of two noise predictions (B, 4, h, w), (B,); in x0-space a row weighs (1
    - a) / a, `alphas` (B,) being a.

    x0(eps) = (z - sqrt(1 - a) eps) / sqrt(a), so z cancels wherever the coefficients of a target add up to
    one. Where a = 0 the noise says nothing of x0, and the row weighs nothing.
    """
    squared = (a - b).square().flatten(1).mean(1)
    return squared * ((1 - alphas) / alphas).where(alphas > 0, 0) if space == "x0" else squared


def error(a: Tensor, b: Tensor, alphas: Tensor, space: Literal["eps", "x0"]) -> Tensor:
    """The mean of `errors` over the rows, a scalar."""
    return errors(a, b, alphas, space).mean()


def predicted(z: Tensor, eps: Tensor, alphas: Tensor) -> Tensor:
    """x0 = (z - sqrt(1 - a) eps) / sqrt(a), (B, 4, h, w); `alphas` (B,). Where a = 0, and nothing is known
    of it, 0.
    """
    a = alphas.view(-1, 1, 1, 1)
    known = a > 0
    return (z - (1 - a).sqrt() * eps) * known / a.where(known, 1).sqrt()


def guided_away(eps_t: Tensor, eps_c: Tensor, eta: float) -> Tensor:
    """eps_t - eta (eps_c - eps_t): the target's prediction, pushed away from the concept's."""
    return eps_t - eta * (eps_c - eps_t) if eta else eps_t


def cat(*latents: Latents) -> tuple[Tensor, Tensor]:
    """Several batches as one (z, t) for a single forward pass."""
    return torch.cat([x.z for x in latents]), torch.cat([x.t for x in latents])
