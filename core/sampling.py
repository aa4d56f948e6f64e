"""Below everything that draws: seeds, latents and denoising."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from expunge.core.models import Denoiser, Text


@dataclass(frozen=True)
class Latents:
    """Latents of one step.

    z: (B, C, h, w); t: (B,). Where clean latents were noised, target: what the network should predict,
    (B, C, h, w), and row: which of the contexts each was drawn with, (B,).
    """

    z: Tensor
    t: Tensor
    target: Tensor | None = None
    row: Tensor | None = None


def cat(*latents: Latents) -> tuple[Tensor, Tensor]:
    """Several batches as one (z, t) for a single forward pass."""
    return torch.cat([x.z for x in latents]), torch.cat([x.t for x in latents])


def seeded(*parts: int) -> Generator:
    """A CPU generator that depends on its parts alone, so that no generator state needs saving."""
    state = 0x9E3779B97F4A7C15
    for part in parts:
        state = ((state ^ (part + 0x7F4A7C15)) * 0xBF58476D1CE4E5B9 + (state >> 29)) % 2**63
    return Generator().manual_seed(state)


def draw_noise(model: Denoiser, generator: Generator, count: int) -> Tensor:
    """Pure noise, (count, C, h, w), drawn on the CPU."""
    return torch.randn(count, *model.latent_shape, generator=generator).to(model.device)


@torch.no_grad()
def denoise(model: Denoiser, z: Tensor, text: Text, steps: int, guidance: float, until: int) -> list[Tensor]:
    """From noise z (B, C, h, w) with guidance: the latents before steps 0 .. until.

    The steps are the stock pipeline's, on what the network predicts. Where nothing of the picture is left
    (zero terminal SNR), noise alone says nothing of it: that step is left out, and z stays pure noise.
    """
    sampler, empty = model.sampler(steps), model.unconditional().expand(len(z))
    levels = sampler.timesteps.to(model.device)
    states = [z]
    for k in range(min(until, len(sampler))):
        if not sampler.is_blind(k):
            out = model.predict_guided(z, levels[k].expand(len(z)), text, empty, guidance)
            z = sampler.step(out, k, z)
        states.append(z)
    return states


@torch.no_grad()
def ancestral_path(model: Denoiser, text: Text, noise: Tensor, steps: int, guidance: float) -> Tensor:
    """Whole paths of the ancestral sampler, one for each of B texts: the latents before its moves and behind
    the last, (B, moves + 1, C, h, w). noise: where a path begins and what each move adds, of the same shape.
    """
    empty = model.unconditional().expand(len(text))
    states = [noise[:, 0]]
    for k, (level, following) in enumerate(model.sampler(steps).moves, 1):
        t = torch.full((len(text),), level, device=model.device)
        out = model.predict_guided(states[-1], t, text, empty, guidance)
        mean, deviation = model.schedule.ancestral(states[-1], out, t, torch.full_like(t, following))
        states.append(mean + deviation * noise[:, k])
    return torch.stack(states, 1)


def tensors_under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with a prefix, without it."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
