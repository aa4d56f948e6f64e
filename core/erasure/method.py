"""What a method is to the loop that trains it: the loss of a step, and what it must remember."""

from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Any, Generic, Protocol, TypeVar

from torch import Generator, Tensor

from expunge.core.concepts import names_of, resolve_target
from expunge.core.erasure.trajectory_buffer import Trajectories
from expunge.core.models import Denoiser, Text
from expunge.core.progress import Callback
from expunge.core.sampling import Latents, seeded
from expunge.core.specs import Concept, EraseSpec, LatentsSpec, TrainSpec

S = TypeVar("S", bound=TrainSpec)


class Purpose(IntEnum):
    """What a stream of random numbers is for: a run's streams differ by step and purpose.

    The values are part of what a seed means, so they stay as they are. Names of one value belong to methods
    that no run has together, but for SCORE inside KPOP, whose streams coincide.
    """

    STEP = 0
    SEARCH = 1
    SALIENCY = 2
    LEAKAGE = 3
    MASK_NOISE = 4
    HELD = 5
    STRANGERS = 6
    ADVERSARY = 7
    ADVERSARY_START = 8
    ADVERSARY_RETAINED = 9
    RETAINED = 2
    RECOVERY = 2
    KEY_START = 3


class Asker(Protocol):
    """Who says what the trained network is asked in a concept's place (core/erasure/adversary)."""

    def asked(self, i: int, own: Text, g: Generator) -> Text:
        """Texts in the place of concept i's own, B rows."""

    def shifted(self, i: int, x: Latents, own: Text, g: Generator) -> Latents:
        """Latents in the place of these, of concept i with its own texts, B rows."""


class Run(Generic[S]):
    """What a method may use while it runs.

    request: the job's spec; spec: the method's own part of it; names: each concept's name and synonyms;
    adversary: who asks in the concepts' place, while somebody does.
    """

    adversary: Asker | None = None
    start_over: Callable[[], None]
    """Puts what is trained back to its start, the optimiser's memory too; given by the loop."""

    def __init__(self, model: Denoiser, request: EraseSpec, spec: S, callback: Callback) -> None:
        self.model, self.spec, self.callback = model, spec, callback
        self.concepts, self.preserve, self.seed = request.concepts, request.preserve, request.seed
        self.names = [names_of(c) for c in request.concepts]
        # A method that asks the network nothing leaves its buffer empty.
        latents = spec if isinstance(spec, LatentsSpec) else LatentsSpec()
        self.trajectories = Trajectories(model, latents, request.seed)

    def prompts(self, names: Sequence[str]) -> list[str]:
        """Names in every prompt template; the empty name is the empty prompt."""
        templates = self.model.vocabulary.prompts
        return [prompt for name in names for prompt in (templates(name) if name else [""])]

    def texts(self, names: Sequence[str]) -> Text:
        """Names in every prompt template, encoded: T texts."""
        return self.model.encode(self.prompts(names))

    def target_texts(self, concept: Concept, target: str) -> Text:
        """A concept's prompts with a target in its place, T texts: the object stays where a style is
        replaced, or taken off by "".
        """
        return self.model.encode(self.model.vocabulary.replaced(concept.name, target))

    def targets(self) -> tuple[list[str], list[Text]]:
        """What each concept becomes, "" for nothing; and its texts, one for each of the concept's prompts,
        or the empty prompt's one.
        """
        names = [resolve_target(self.model, c, self.concepts) for c in self.concepts]
        texts = [
            self.target_texts(c, name) if name else self.texts([""])
            for c, name in zip(self.concepts, names, strict=True)
        ]
        return names, texts

    def asked(self, i: int, own: Text, g: Generator) -> Text:
        """What the trained network is asked, for rows in which the base model is asked concept i's own texts:
        the same, unless there is an adversary.
        """
        return own if self.adversary is None else self.adversary.asked(i, own, g)

    def shifted(self, i: int, x: Latents, own: Text, g: Generator) -> Latents:
        """The latents that concept i's own texts are read on: those given, unless there is an adversary."""
        return x if self.adversary is None else self.adversary.shifted(i, x, own, g)

    def generator(self, step: int, purpose: Purpose = Purpose.STEP) -> Generator:
        """Randomness by seed, step and purpose alone: a resumed run draws the same."""
        return seeded(self.seed, step, int(purpose))


class Method(Generic[S]):
    """A method's part of the loop. A subclass says the loss of a step, and keeps state only if it must.

    first_stage: optimiser steps, of all concepts together, that come before those of the spec.
    """

    first_stage = 0

    def __init__(self, run: Run[S]) -> None:
        self.run = run

    def step(self, i: int, step: int) -> tuple[Tensor, str | None]:
        """Loss of concept i (scalar, with a graph to the adapter) and the name of the target chosen."""
        raise NotImplementedError

    def state(self) -> dict[str, Tensor]:
        """Tensors that a resumed run needs beyond adapter and optimiser."""
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """The inverse of `state`."""

    def held(self) -> list[str] | None:
        """Names of the concepts, not to be erased, that the losses saw: searched, retained, preserved, or a
        target. None: not known, so that nothing is taken for unheld.
        """
        return None

    def finish(self) -> dict[str, Any]:
        """What the method has to say of its run, for `Delta.info`."""
        return {}


def few(trajectories: int, share: int = 4) -> int:
    """Trajectories that one of many texts keeps: a share of what a concept keeps, at least one."""
    return max(1, trajectories // share)
