"""What attacks on the text encoder compare: the states of token sequences and of prompts."""

import torch
from torch import Tensor

from expunge.core.memory import in_batches
from expunge.core.models import Denoiser

AT_ONCE = 64


def of_tokens(model: Denoiser, embeddings: Tensor) -> Tensor:
    """Text states (P, L, D) of token sequences given by their embeddings (P, k, D), with their graph."""

    def encode(start: int, end: int) -> Tensor:
        return model.encode_with_graph([""] * (end - start), embeddings[start:end]).states

    return torch.cat(in_batches(len(embeddings), AT_ONCE, encode))


def at_end(states: Tensor, tokens: int) -> Tensor:
    """The state of the end token behind `tokens` tokens, (P, D): what CLIP takes for the whole text."""
    return states[:, tokens + 1]


def end_of_prompt(model: Denoiser, prompt: str) -> Tensor:
    """The state of a prompt's end token, (D,)."""
    (ids,) = model.text.token_ids([prompt])
    return model.encode([prompt]).states[0, len(ids) - 1]
