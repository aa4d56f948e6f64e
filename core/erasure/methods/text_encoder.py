"""The naive text-encoder method, Eq. 2 of the concept-erasure literature (Bui et al.): the concept's text
states become the target's.

|tau'(c_e) - tau(c_t)|^2  +  lambda |phi' - phi|^2

The slides print tau' on both sides, which an encoder that says one thing of everything would satisfy: here
the target is the frozen encoder's. On a LoRA phi' - phi is scale B A. The first term is a mean over the text
states' L x D numbers: the second is divided by as many and multiplied by STATES, so that one ridge means the
same on every model. The U-Net is the base model's, so with the stock text encoder the concept is back.
"""

from typing import Any

import torch
from torch import Tensor

from expunge.core.erasure.loop import Run
from expunge.core.specs import TextEncoderSpec

STATES = 32 * 128  # L x D of the bundled model, on which the default ridge was chosen


def loss(
    new: Tensor,
    aim: Tensor,
    updates: list[Tensor],
    spec: TextEncoderSpec,
    held: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """new, aim: text states (B, L, D), mean squared error; updates: each layer's phi' - phi; held: new and
    old states of what must stay.
    """
    ridge = spec.ridge * STATES / (new.shape[-2] * new.shape[-1])
    total = (new - aim).square().mean() + ridge * torch.stack([u.square().sum() for u in updates]).sum()
    return total + spec.preserve_weight * (held[0] - held[1]).square().mean() if held else total


class TextEncoder:
    """Draws prompts of the concept in turn; no latents are needed."""

    def __init__(self, run: Run[TextEncoderSpec]) -> None:
        self.run = run
        self.prompts = [run.prompts(words) for words in run.words]
        self.kept = run.prompts(run.preserve)
        with run.model.frozen():
            self.named, self.aims = run.aims()
            self.old = run.model.encode(self.kept) if self.kept else torch.empty(0)

    def step(self, i: int, step: int) -> tuple[Tensor, str | None]:
        run, spec, g = self.run, self.run.spec, self.run.generator(step)
        row = torch.randint(len(self.prompts[i]), (spec.batch_size,), generator=g)
        new = run.model.text_states([self.prompts[i][k] for k in row.tolist()])
        held = None
        if self.kept:
            keep = torch.randint(len(self.kept), (spec.batch_size,), generator=g)
            held = run.model.text_states([self.kept[k] for k in keep.tolist()]), self.old[keep]
        return (
            loss(new, self.aims[i][row % len(self.aims[i])], run.model.updates(), spec, held),
            self.named[i] or None,
        )

    def state(self) -> dict[str, Tensor]:
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None: ...

    def finish(self) -> dict[str, Any]:
        return {}
