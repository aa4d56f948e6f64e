"""What methods of one loss share: a draw of the concept's latents, the texts a loss reads, no state of their
own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Generator, Tensor

from expunge.core.concepts import resolve_target
from expunge.core.erasure.method import Method, Run
from expunge.core.models import Denoiser, Text
from expunge.core.sampling import Latents
from expunge.core.specs import Concept, FineTuneSpec

S = TypeVar("S", bound=FineTuneSpec)


@dataclass(frozen=True)
class Texts:
    """Texts of B rows each: the concept, what the trained network is asked in its place (an adversary's, or
    the same), its target if there is one, the empty prompt, and what is to stay.

    A style's target, where the user gives none, is the nearest other style around the same object.
    """

    concept: Text
    asked: Text
    target: Text | None
    empty: Text
    kept: Text

    @property
    def target_or_empty(self) -> Text:
        return self.empty if self.target is None else self.target


Loss = Callable[[Denoiser, Latents, Texts, S], Tensor]


class SingleLoss(Method[S]):
    """A method that is its loss.

    holds: whether the loss reads `Texts.kept`, so that what the job preserves is held.
    """

    def __init__(self, run: Run[S], loss: Loss[S], holds: bool = True) -> None:
        super().__init__(run)
        self.loss, self.holds = loss, holds
        self.concepts = [run.texts(names) for names in run.names]
        self.target_names = [self.target_of(c) for c in run.concepts]
        self.targets = [
            None if name is None else run.target_texts(c, name)
            for c, name in zip(run.concepts, self.target_names, strict=True)
        ]
        self.empty = run.model.unconditional()
        self.kept = run.texts(run.preserve or [""])
        self.keys = [f"erase/{i}" for i in range(len(run.concepts))]
        self.prefill()

    def target_of(self, concept: Concept) -> str | None:
        """The name of what the concept becomes; None is the empty prompt."""
        is_style = self.run.model.vocabulary.style(concept.name) is not None
        return resolve_target(self.run.model, concept, self.run.concepts) if is_style else concept.target

    def held(self) -> list[str] | None:
        targets = [name for name in self.target_names if name]
        return [*(self.run.preserve if self.holds else []), *targets]

    def prefill(self) -> None:
        """Draw the latents that every step will read, once and with progress."""
        run = self.run
        if run.spec.latents == "buffer":
            wanted = dict(zip(self.keys, self.concepts, strict=True))
            run.trajectories.prefill(wanted, run.spec.trajectories, run.callback)

    def latents(self, i: int, g: Generator) -> Latents:
        """One batch of concept i's latents."""
        spec = self.run.spec
        return self.run.trajectories.draw(
            self.keys[i], self.concepts[i], g, spec.batch_size, spec.trajectories
        )

    def step(self, i: int, step: int) -> tuple[Tensor, str | None]:
        run, size, targets = self.run, self.run.spec.batch_size, self.targets[i]
        g = run.generator(step)
        x = self.latents(i, g)
        if x.row is None:
            row = torch.randint(len(self.concepts[i]), (size,), generator=g)
        else:
            row = self.any_name(i, x.row, g)
        kept = self.kept[torch.randint(len(self.kept), (size,), generator=g)]
        target = None if targets is None else targets[row % len(targets)]
        concept = self.concepts[i][row]
        texts = Texts(concept, run.asked(i, concept, g), target, self.empty.expand(size), kept)
        x = run.shifted(i, x, concept, g)
        return self.loss(run.model, x, texts, run.spec), self.target_names[i]

    def any_name(self, i: int, template: Tensor, g: Generator) -> Tensor:
        """Rows of concept i's texts in these templates (B,): its name's, or one of its synonyms' in the same
        template.
        """
        names = len(self.run.names[i])
        each = len(self.concepts[i]) // names
        if names == 1:
            return template
        return template + each * torch.randint(names, template.shape, generator=g)
