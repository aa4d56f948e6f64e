"""What AP and AGE share: a search of the concept space climbs on one draw, theta' descends on another."""

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from core.erasure.batch import Latents, error
from core.erasure.loop import Run
from core.erasure.search import Ascent, Search
from core.specs import AgeSpec, ApSpec, Concept

S = TypeVar("S", AgeSpec, ApSpec)


@dataclass(frozen=True)
class Draw:
    """One batch for concept i: latents of the concept and of what the search found, their texts (B, L, D), the templates drawn (B,)."""

    i: int
    x_e: Latents
    x_f: Latents
    concept: Tensor
    found: Tensor
    row: Tensor


class Adversarial(Generic[S]):
    """One search for each concept; subclasses say what it ranges over, what it climbs, and what theta' descends."""

    def __init__(self, run: Run[S]) -> None:
        self.run: Run[S] = run
        self.spec: S = run.spec
        self.contexts = [run.contexts(words) for words in run.words]
        self.searches: list[Search | Ascent] = []
        for concept in run.concepts:
            names = self.space(concept)
            self.searches.append(self.search(names, torch.stack([run.contexts([n]) for n in names])))
        self.kept = {f"keep/{name}": run.contexts([name]) for name in run.preserve}
        found = {f"target/{n}": s for search in self.searches for n, s in zip(search.names, search.states, strict=True)}
        if self.spec.latents == "buffer":
            run.trajectories.prefill({f"erase/{i}": c for i, c in enumerate(self.contexts)}, self.spec.trajectories, run.callback)
            run.trajectories.prefill(self.kept | found, self.per_target, run.callback)

    def space(self, concept: Concept) -> list[str]:
        """The words that the concept's search ranges over."""
        raise NotImplementedError

    def loss(self, draw: Draw) -> Tensor:
        """What theta' descends."""
        raise NotImplementedError

    def objective(self, draw: Draw) -> Tensor:
        """What the search climbs, through `draw.found`."""
        raise NotImplementedError

    def search(self, names: list[str], states: Tensor) -> Search | Ascent:
        return Search(names, states, self.spec.search_learning_rate, self.spec.temperature, self.spec.hard)

    @property
    def per_target(self) -> int:
        """Trajectories a candidate keeps: a few each, for there are many."""
        return max(1, self.spec.trajectories // 8)

    def batch(self, i: int, weights: Tensor, g: torch.Generator, size: int) -> Draw:
        """`size` rows for concept i under a draw of the search."""
        run, spec, search = self.run, self.spec, self.searches[i]
        j = int(weights.argmax())
        x_e = run.trajectories.draw(f"erase/{i}", self.contexts[i], g, size, spec.trajectories)
        x_f = run.trajectories.draw(f"target/{search.names[j]}", search.states[j], g, size, self.per_target)
        row = torch.randint(len(self.contexts[i]), (size,), generator=g)
        return Draw(i, x_e, x_f, self.contexts[i][row], search.context(weights, row % search.states.shape[1]), row)

    def step(self, i: int, step: int) -> tuple[Tensor, str | None]:
        run, spec, search = self.run, self.spec, self.searches[i]
        if len(search.names) > 1 and step % spec.search_every == 0:
            g = run.generator(step, 1)
            half = max(1, spec.batch_size // 2)
            search.ascend(self.objective(self.batch(i, search.sample(g), g, half)))
        g = run.generator(step)
        with torch.no_grad():
            weights = search.sample(g)
            draw = self.batch(i, weights, g, spec.batch_size)
        total = self.loss(draw)
        if self.kept:
            key = list(self.kept)[int(torch.randint(len(self.kept), (1,), generator=g))]
            total = total + spec.preserve_weight * self.hold(key, g)
        return total, search.names[int(weights.argmax())]

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
