"""What a search for words moves: embeddings as they are, or a distribution over the vocabulary's tokens."""

from typing import Protocol

import torch
from torch import Generator, Tensor

from expunge.core.attacks.tokens import allowed_ids
from expunge.core.attacks.unlearn_diff_atk import project, straight_through
from expunge.core.models import Denoiser
from expunge.core.specs import Concept


class Guess(Protocol):
    """R guesses of k embeddings each, searched at once."""

    parameter: Tensor  # what descends

    def vectors(self, g: Generator) -> Tensor:
        """The guesses (R, k, D), with their graph."""

    def settle(self) -> None:
        """After a step: back to where guesses may be."""

    def found(self) -> Tensor:
        """The guesses as they stand, (R, k, D)."""


class Embeddings:
    """Any embeddings, from those given on, (R, k, D): textual inversion's word."""

    def __init__(self, start: Tensor) -> None:
        self.parameter = start.clone().requires_grad_(True)

    def vectors(self, _: Generator) -> Tensor:
        return self.parameter

    def settle(self) -> None:
        """Embeddings may be anything."""

    def found(self) -> Tensor:
        return self.parameter.detach().clone()


class Tokens:
    """Tokens of the vocabulary, by a distribution over them, (R, k, V): UnlearnDiffAtk's prefix (Zhang et
    al., ECCV 2024). Tokens are drawn, and the gradient passes straight through to their distribution.
    """

    def __init__(self, model: Denoiser, concept: Concept, restarts: int, count: int, g: Generator) -> None:
        ids = allowed_ids(model, concept)
        self.table = model.text.token_embeddings()[ids]
        self.shape = restarts, count
        start = project(torch.rand(restarts * count, len(ids), generator=g))
        self.parameter = start.to(model.device).requires_grad_(True)

    def vectors(self, g: Generator) -> Tensor:
        p = self.parameter
        u = torch.rand(len(p), 1, generator=g).to(p.device)
        drawn = torch.searchsorted(p.detach().cumsum(1), u)[:, 0].clamp_max(len(self.table) - 1)
        return straight_through(p, drawn, self.table).view(*self.shape, -1)

    def settle(self) -> None:
        with torch.no_grad():
            self.parameter.copy_(project(self.parameter))

    def found(self) -> Tensor:
        return self.table[self.parameter.detach().argmax(1)].view(*self.shape, -1)
