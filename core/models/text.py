"""What a network is told to draw: prompts as its text encoders read them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Text:
    """Prompts after the text encoders; opaque to methods, which index it, join it, mix it and hand it on.

    states: token states (B, L, D), float32; more leading dimensions where texts were stacked.
    pooled: one vector for each prompt, (B, P), where the architecture has one.
    ids: token ids (B, L) that the states were made of; None where the text is not a prompt's (mixed, with a
        key appended).
    """

    states: Tensor
    pooled: Tensor | None = None
    ids: Tensor | None = None

    def __len__(self) -> int:
        return len(self.states)

    def __getitem__(self, rows: Any) -> "Text":
        """The prompts of these rows: a slice, an index tensor, or several of them."""
        return self.each(lambda part: part[rows])

    def each(self, change: Callable[[Tensor], Tensor]) -> "Text":
        """The same change to every part whose leading dimensions are the prompts'."""
        pooled, ids = self.pooled, self.ids
        return Text(
            change(self.states),
            None if pooled is None else change(pooled),
            None if ids is None else change(ids),
        )

    @staticmethod
    def cat(texts: Sequence["Text"]) -> "Text":
        """One batch of several."""
        return Text.joined(texts, torch.cat)

    @staticmethod
    def stack(texts: Sequence["Text"]) -> "Text":
        """Texts of one size under a new first dimension."""
        return Text.joined(texts, torch.stack)

    @staticmethod
    def joined(texts: Sequence["Text"], join: Callable[[list[Tensor]], Tensor]) -> "Text":
        pooled = [t.pooled for t in texts if t.pooled is not None]
        ids = [t.ids for t in texts if t.ids is not None]
        return Text(
            join([t.states for t in texts]),
            join(pooled) if len(pooled) == len(texts) else None,
            join(ids) if len(ids) == len(texts) else None,
        )

    def expand(self, count: int) -> "Text":
        """One prompt, `count` times; nothing is copied."""
        return self.each(lambda part: part.expand(count, *part.shape[1:]))

    def mixed(self, weights: Tensor) -> "Text":
        """sum_n w_n text_n over the first dimension: weights (n,), differentiable in them."""

        def mix(part: Tensor) -> Tensor:
            return torch.einsum("n,n...->...", weights, part)

        return Text(mix(self.states), None if self.pooled is None else mix(self.pooled))

    def with_states(self, states: Tensor) -> "Text":
        """Other token states in the place of these, which no token ids belong to."""
        return Text(states, self.pooled)

    def with_key(self, key: Tensor) -> "Text":
        """A recovery key (m, D) or (B, m, D) appended to the token states: (B, L + m, D)."""
        states = torch.cat([self.states, key.to(self.states).expand(len(self), -1, -1)], 1)
        return self.with_states(states)
