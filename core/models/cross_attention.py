"""A U-Net's cross-attention laid open: the probability that each layer gives each token, with its graph."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor


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
        mixed = (probabilities.to(v.dtype) @ v).transpose(1, 2).flatten(2)
        out: Tensor = attn.to_out[1](attn.to_out[0](mixed))
        return out


@contextmanager
def recorded(unet: Any) -> Iterator[list[Tensor]]:
    """Inside, every pass through the U-Net appends each cross-attention layer's probabilities to the list."""
    kept: list[Tensor] = []
    was = dict(unet.attn_processors)
    unet.set_attn_processor({name: Recorder(kept) if ".attn2." in name else p for name, p in was.items()})
    try:
        yield kept
    finally:
        unet.set_attn_processor(was)
