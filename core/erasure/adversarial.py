"""What AP and AGE share: a search of the concept space climbs on one draw, theta' descends on another."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from expunge.core.erasure.loop import Run
from expunge.core.erasure.losses import Latents, cat, error
from expunge.core.erasure.search import Ascent, Search, Shares
from expunge.core.specs import AgeSpec, ApSpec, Concept

S = TypeVar("S", AgeSpec, ApSpec)


@dataclass(frozen=True)
class Draw:
    """One batch for concept i: latents of the concept and of what the search found, their texts (B, L, D),
    the templates drawn (B,).

    `target` names what was found; where each row has its own, the commonest.
    """

    i: int
    x_e: Latents
    x_f: Latents
    concept: Tensor
    found: Tensor
    row: Tensor
    target: str


def keyed(search: Search | Ascent | Shares) -> list[tuple[str, Tensor]]:
    """Each candidate's key in the buffer and its text states, (T, L, D)."""
    return [(f"target/{n}", states) for n, states in zip(search.names, search.states, strict=True)]


class Adversarial(ABC, Generic[S]):
    """One search for each concept; subclasses say what it ranges over, what it climbs, and what theta'
    descends.
    """

    def __init__(self, run: Run[S]) -> None:
        self.run: Run[S] = run
        self.spec: S = run.spec
        self.contexts = [run.contexts(words) for words in run.words]
        self.searches: list[Search | Ascent | Shares] = []
        for concept in run.concepts:
            names = self.space(concept)
            goals = [run.contexts([n]) if concept.attributes else run.goal(concept, n) for n in names]
            states = torch.stack(goals)
            self.searches.append(
                Shares(names, states, concept.wanted)
                if concept.attributes
                else self.search(concept, names, states)
            )
        self.kept = {f"keep/{name}": run.contexts([name]) for name in run.preserve}
        found = {k: states for search in self.searches for k, states in keyed(search)}
        if self.spec.latents == "buffer":
            spread = {k: states for s in self.searches if isinstance(s, Shares) for k, states in keyed(s)}
            erased = {
                f"erase/{i}": c
                for i, c in enumerate(self.contexts)
                if not isinstance(self.searches[i], Shares)
            }
            run.trajectories.prefill(erased | spread, self.spec.trajectories, run.callback)
            run.trajectories.prefill(self.kept | found, self.per_target, run.callback)

    @abstractmethod
    def space(self, concept: Concept) -> list[str]:
        """The words that the concept's search ranges over."""

    @abstractmethod
    def loss(self, draw: Draw) -> Tensor:
        """What theta' descends."""

    @abstractmethod
    def objective(self, draw: Draw) -> Tensor:
        """What the search climbs, through `draw.found`."""

    def search(self, _: Concept, names: list[str], states: Tensor) -> Search | Ascent:
        return Search(names, states, self.spec.search_learning_rate, self.spec.temperature, self.spec.hard)

    @property
    def per_target(self) -> int:
        """Trajectories a candidate keeps: a few each, for there are many."""
        return max(1, self.spec.trajectories // 8)

    def batch(self, i: int, search: Search | Ascent, weights: Tensor, g: torch.Generator, size: int) -> Draw:
        """`size` rows for concept i under a draw of the search."""
        run, j = self.run, int(weights.argmax())
        x_e = run.trajectories.draw(f"erase/{i}", self.contexts[i], g, size, self.spec.trajectories)
        x_f = run.trajectories.draw(f"target/{search.names[j]}", search.states[j], g, size, self.per_target)
        row = torch.randint(len(self.contexts[i]), (size,), generator=g)
        return Draw(
            i,
            x_e,
            x_f,
            self.contexts[i][row],
            search.context(weights, row % search.states.shape[1]),
            row,
            search.names[j],
        )

    def spread(self, i: int, shares: Shares, g: torch.Generator, size: int) -> Draw:
        """`size` rows for concept i, each with an attribute of its own; both terms on that attribute's
        latents.
        """
        keys, picked, spec = keyed(shares), shares.pick(g, size), self.spec
        counts = torch.bincount(picked, minlength=len(keys)).tolist()

        def latents() -> Latents:
            parts = [
                self.run.trajectories.draw(*key, g, n, spec.trajectories)
                for key, n in zip(keys, counts, strict=True)
                if n
            ]
            return Latents(*cat(*parts))

        x_e, x_f = latents(), latents()
        row = torch.randint(len(self.contexts[i]), (size,), generator=g)
        found = shares.states[picked, row % shares.states.shape[1]]
        return Draw(i, x_e, x_f, self.contexts[i][row], found, row, shares.names[counts.index(max(counts))])

    def step(self, i: int, step: int) -> tuple[Tensor, str | None]:
        run, spec, search = self.run, self.spec, self.searches[i]
        if not isinstance(search, Shares) and len(search.names) > 1 and step % spec.search_every == 0:
            g = run.generator(step, 1)
            half = max(1, spec.batch_size // 2)
            search.ascend(
                self.objective(self.batch(i, search, search.sample(g), g, half)), run.model.gradients
            )
        g = run.generator(step)
        with torch.no_grad():
            if isinstance(search, Shares):
                draw = self.spread(i, search, g, spec.batch_size)
            else:
                draw = self.batch(i, search, search.sample(g), g, spec.batch_size)
        total = self.loss(draw)
        if self.kept:
            key = list(self.kept)[int(torch.randint(len(self.kept), (1,), generator=g))]
            total = total + spec.preserve_weight * self.hold(key, g)
        return total, draw.target

    def hold(self, key: str, g: torch.Generator) -> Tensor:
        """|eps'(c_p) - eps(c_p)|^2 on a concept the user preserves (the second term of Eq. 7)."""
        run, spec, contexts = self.run, self.spec, self.kept[key]
        x = run.trajectories.draw(key, contexts, g, spec.batch_size, self.per_target)
        context = contexts[torch.randint(len(contexts), (spec.batch_size,), generator=g)]
        with run.model.frozen(), torch.no_grad():
            old = run.model.predict(x.z, x.t, context)
        return error(run.model.predict(x.z, x.t, context), old, run.model.alphas[x.t], spec.space)

    def state(self) -> dict[str, Tensor]:
        return {f"{i}.{k}": v for i, search in enumerate(self.searches) for k, v in search.state().items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        for i, search in enumerate(self.searches):
            search.load_state({k.removeprefix(f"{i}."): v for k, v in state.items() if k.startswith(f"{i}.")})

    def finish(self) -> dict[str, Any]:
        return {}
