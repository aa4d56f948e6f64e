"""Where a model's cross-attention looks for a concept's tokens."""

import torch
from torch import Tensor

from expunge.core.models import Denoiser


def positions(model: Denoiser, prompt: str, start: int, end: int) -> Tensor:
    """Which of the text's L positions hold the tokens of the prompt's characters start .. end, (L,) of 0 and
    1.
    """
    mask = torch.zeros(model.text.max_tokens, device=model.device)
    before, named = model.text.token_ids([prompt[:start], prompt[start:end]], cut=False)
    first = len(before) - 1
    mask[first : first + len(named) - 2] = 1
    return mask


def named_tokens(model: Denoiser, name: str) -> Tensor:
    """`positions` of a concept's or a style's own words in each of its prompts, (T, L)."""
    vocabulary = model.vocabulary
    pairs = zip(vocabulary.prompts(name), vocabulary.places(name), strict=True)
    return torch.stack([positions(model, prompt, *place) for prompt, place in pairs])


def token_maps(probabilities: list[Tensor], tokens: Tensor) -> list[Tensor]:
    """Each layer's probability of the tokens (B, L), summed over them: (B, positions)."""
    return [torch.einsum("bpl,bl->bp", p, tokens.to(p.dtype)) for p in probabilities]


def at_size(maps: list[Tensor], side: int) -> Tensor:
    """The mean of the layers' maps (B, positions) at side x side, (B, side, side)."""
    squares = [m.reshape(len(m), 1, int(m.shape[1] ** 0.5), -1) for m in maps]
    resized = [torch.nn.functional.interpolate(s, size=(side, side), mode="bilinear") for s in squares]
    return torch.stack(resized).mean(0)[:, 0]
