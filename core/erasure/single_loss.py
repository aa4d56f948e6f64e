"""What methods of one loss share: a draw of the concept's latents, the texts a loss reads, no state of their
own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Generator, Tensor

from expunge.core.concepts import anchor
from expunge.core.erasure.loop import Run
from expunge.core.erasure.losses import Latents
from expunge.core.models import Denoiser
from expunge.core.specs import Concept, FineTuneSpec

S = TypeVar("S", bound=FineTuneSpec)


@dataclass(frozen=True)
class Texts:
    """Text states, (B, L, D) each: the concept, its target if there is one, the empty prompt, and what is to
    stay.

    A style's target, where the user gives none, is the nearest other style around the same object.
    """

    concept: Tensor
    target: Tensor | None
    empty: Tensor
    kept: Tensor

    @property
    def anchor(self) -> Tensor:
        """The target, or the empty prompt."""
        return self.empty if self.target is None else self.target


Loss = Callable[[Denoiser, Latents, Texts, S], Tensor]


class Single(Generic[S]):
    """A method that is its loss."""

    def __init__(self, run: Run[S], loss: Loss[S]) -> None:
        self.run, self.loss = run, loss
        self.contexts = [run.contexts(words) for words in run.words]
        self.named = [self.target(c) for c in run.concepts]
        self.targets = [self.goal(c, name) for c, name in zip(run.concepts, self.named, strict=True)]
        self.empty = run.contexts([""])
        self.kept = run.contexts(run.preserve or [""])
        self.keys = [f"erase/{i}" for i in range(len(run.concepts))]
        self.prefill()

    def target(self, concept: Concept) -> str | None:
        """The name of what the concept becomes; None is the empty prompt."""
        style = self.run.model.vocabulary.style(concept.name) is not None
        return anchor(self.run.model, concept, self.run.concepts) if style else concept.target

    def goal(self, concept: Concept, name: str | None) -> Tensor | None:
        """Text states of that target, one row for each of the concept's prompts; None is the empty prompt."""
        return None if name is None else self.run.goal(concept, name)

    def prefill(self) -> None:
        """Draw the latents that every step will read, once and with progress."""
        run = self.run
        if run.spec.latents == "buffer":
            run.trajectories.prefill(
                dict(zip(self.keys, self.contexts, strict=True)), run.spec.trajectories, run.callback
            )

    def latents(self, i: int, g: Generator) -> Latents:
        """One batch of concept i's latents."""
        spec = self.run.spec
        return self.run.trajectories.draw(
            self.keys[i], self.contexts[i], g, spec.batch_size, spec.trajectories
        )

    def step(self, i: int, step: int) -> tuple[Tensor, str | None]:
        run, spec, targets = self.run, self.run.spec, self.targets[i]
        g = run.generator(step)
        x = self.latents(i, g)
        row = (
            torch.randint(len(self.contexts[i]), (spec.batch_size,), generator=g)
            if x.row is None
            else self.any_word(i, x.row, g)
        )
        kept = self.kept[torch.randint(len(self.kept), (spec.batch_size,), generator=g)]
        target = None if targets is None else targets[row % len(targets)]
        texts = Texts(self.contexts[i][row], target, self.empty.expand_as(kept), kept)
        return self.loss(run.model, x, texts, spec), self.named[i]

    def any_word(self, i: int, template: Tensor, g: Generator) -> Tensor:
        """Rows of concept i's contexts in these templates (B,): its name's, or one of its synonyms' in the
        same template.
        """
        words = len(self.run.words[i])
        each = len(self.contexts[i]) // words
        return template if words == 1 else template + each * torch.randint(words, template.shape, generator=g)

    def state(self) -> dict[str, Tensor]:
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None: ...

    def finish(self) -> dict[str, Any]:
        return {}
