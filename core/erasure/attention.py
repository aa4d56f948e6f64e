"""Cross-attention laid open: the probabilities that each layer gives each token, with their graph."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from expunge.core.models import Denoiser


class Recorder:
    """An attention processor that keeps its probabilities, (B, positions, tokens), the mean over heads; the
    output is softmax(QK^T / sqrt(d)) V.

    QK^T and the softmax are float32 whatever the model computes in: in float16 they overflow (hence
    diffusers' `upcast_attention`), and the probabilities are what a loss squares.
    """

    def __init__(self, kept: list[Tensor]) -> None:
        self.kept = kept

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, *_: Any, **__: Any
    ) -> Tensor:
        q, k, v = attn.to_q(hidden_states), attn.to_k(encoder_hidden_states), attn.to_v(encoder_hidden_states)
        q, k, v = (x.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for x in (q, k, v))
        probabilities = (q.float() @ k.float().transpose(-1, -2) * attn.scale).softmax(-1)
        self.kept.append(probabilities.mean(1))
        out: Tensor = attn.to_out[1](
            attn.to_out[0]((probabilities.to(v.dtype) @ v).transpose(1, 2).flatten(2))
        )
        return out


@contextmanager
def recorded(model: Denoiser) -> Iterator[list[Tensor]]:
    """Inside, every pass through the U-Net appends each cross-attention layer's probabilities to the list."""
    kept: list[Tensor] = []
    was, recomputes = dict(model.unet.attn_processors), model.recomputes
    model.recompute(False)  # what is recorded must have a graph
    model.unet.set_attn_processor(
        {name: Recorder(kept) if ".attn2." in name else p for name, p in was.items()}
    )
    try:
        yield kept
    finally:
        model.unet.set_attn_processor(was)
        model.recompute(recomputes)


def positions(model: Denoiser, prompt: str, start: int, end: int) -> Tensor:
    """Which of the text's L positions hold the tokens of the prompt's characters start .. end, (L,) of 0 and
    1.
    """
    mask = torch.zeros(model.pipe.tokenizer.model_max_length, device=model.device)
    before, named = (
        len(ids) for ids in model.pipe.tokenizer(model.spelled([prompt[:start], prompt[start:end]])).input_ids
    )
    mask[before - 1 : before - 1 + named - 2] = 1
    return mask


def named_tokens(model: Denoiser, name: str) -> Tensor:
    """`positions` of a concept's or a style's own words in each of its prompts, (T, L)."""
    vocabulary = model.vocabulary
    return torch.stack(
        [
            positions(model, p, *place)
            for p, place in zip(vocabulary.prompts(name), vocabulary.places(name), strict=True)
        ]
    )


def token_maps(probabilities: list[Tensor], tokens: Tensor) -> list[Tensor]:
    """Each layer's probability of the tokens (B, L), summed over them: (B, positions)."""
    return [torch.einsum("bpl,bl->bp", p, tokens.to(p.dtype)) for p in probabilities]


def at_size(maps: list[Tensor], side: int) -> Tensor:
    """The mean of the layers' maps (B, positions) at side x side, (B, side, side)."""
    squares = [m.reshape(len(m), 1, int(m.shape[1] ** 0.5), -1) for m in maps]
    return torch.stack(
        [torch.nn.functional.interpolate(s, size=(side, side), mode="bilinear") for s in squares]
    ).mean(0)[:, 0]
