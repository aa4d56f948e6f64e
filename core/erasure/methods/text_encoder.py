"""The naive text-encoder method, Eq. 2 of the concept-erasure literature (Bui et al.): the concept's text
states become the target's.

|tau'(c_e) - tau(c_t)|^2  +  lambda |phi' - phi|^2

The slides print tau' on both sides, which an encoder that says one thing of everything would satisfy: here
the target is the frozen encoder's. On a LoRA phi' - phi is scale B A. The first term is a mean over the text
states' L x D numbers: the second is divided by as many and multiplied by STATES, so that one ridge means the
same on every model. The U-Net is the base model's, so with the stock text encoder the concept is back.
"""

import torch
from torch import Tensor

from expunge.core.erasure.method import Method, Run
from expunge.core.specs import TextEncoderSpec

STATES = 32 * 128  # L x D of the bundled model, on which the default ridge was chosen


def loss(
    new: Tensor,
    wanted: Tensor,
    updates: list[Tensor],
    spec: TextEncoderSpec,
    held: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """new, wanted: text states (B, L, D), mean squared error; updates: each layer's phi' - phi; held: new and
    old states of what must stay.
    """
    ridge = spec.ridge * STATES / (new.shape[-2] * new.shape[-1])
    total = (new - wanted).square().mean() + ridge * torch.stack([u.square().sum() for u in updates]).sum()
    return total + spec.preserve_weight * (held[0] - held[1]).square().mean() if held else total


class TextEncoder(Method[TextEncoderSpec]):
    """Draws prompts of the concept in turn; no latents are needed."""

    def __init__(self, run: Run[TextEncoderSpec]) -> None:
        super().__init__(run)
        self.prompts = [run.prompts(names) for names in run.names]
        self.kept = run.prompts(run.preserve)
        with run.model.frozen():
            self.target_names, self.targets = run.targets()
            self.old = run.model.encode(self.kept).states if self.kept else torch.empty(0)

    def held(self) -> list[str] | None:
        return [*self.run.preserve, *self.target_names]

    def step(self, i: int, step: int) -> tuple[Tensor, str | None]:
        run, spec, g = self.run, self.run.spec, self.run.generator(step)
        prompts, targets = self.prompts[i], self.targets[i]
        row = torch.randint(len(prompts), (spec.batch_size,), generator=g)
        new = run.model.encode_with_graph([prompts[k] for k in row.tolist()]).states
        held = None
        if self.kept:
            keep = torch.randint(len(self.kept), (spec.batch_size,), generator=g)
            kept = run.model.encode_with_graph([self.kept[k] for k in keep.tolist()])
            held = kept.states, self.old[keep]
        wanted = targets[row % len(targets)].states
        return loss(new, wanted, run.model.updates(), spec, held), self.target_names[i] or None


METHOD = TextEncoder
