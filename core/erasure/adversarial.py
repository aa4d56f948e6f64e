"""What AP and AGE share: a search of the concept space climbs on one draw, theta' descends on another."""

from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from expunge.core.erasure.losses import drift
from expunge.core.erasure.method import Method, Purpose, Run, few
from expunge.core.erasure.search import Ascent, Search
from expunge.core.models import Text
from expunge.core.sampling import Latents, tensors_under
from expunge.core.specs import AgeSpec, ApSpec, Concept

S = TypeVar("S", bound=AgeSpec | ApSpec)


@dataclass(frozen=True)
class Draw:
    """One batch for concept i: latents of the concept and of the candidate that was picked, their texts, and
    the templates drawn (B,).

    `asked`: what the trained network is asked in the concept's place; `name` is the candidate's; where each
    row has its own, the commonest.
    """

    i: int
    x_concept: Latents
    x_picked: Latents
    concept: Text
    asked: Text
    picked: Text
    row: Tensor
    name: str


def keys_of(names: list[str], texts: Text) -> list[tuple[str, Text]]:
    """Each candidate's key in the trajectory buffer, and its T texts."""
    return [(f"target/{name}", texts[n]) for n, name in enumerate(names)]


class Adversarial(Method[S]):
    """One search for each concept; subclasses say what it ranges over, what it climbs, and what theta'
    descends.
    """

    def __init__(self, run: Run[S]) -> None:
        super().__init__(run)
        self.spec: S = run.spec
        self.concepts = [run.texts(names) for names in run.names]
        self.searches: dict[int, Search | Ascent] = {}
        for i, concept in enumerate(run.concepts):
            if self.is_searched(i):
                names = self.space(concept)
                texts = Text.stack([run.target_texts(concept, name) for name in names])
                self.searches[i] = self.search(concept, names, texts)
        self.kept = {f"keep/{name}": run.texts([name]) for name in run.preserve}
        if self.spec.latents == "buffer":
            whole, some = self.whole_buffers(), dict[str, Text]()
            for search in self.searches.values():
                some |= dict(keys_of(search.names, search.texts))
            run.trajectories.prefill(whole, self.spec.trajectories, run.callback)
            run.trajectories.prefill(self.kept | some, self.few, run.callback)

    # --- what a subclass says -------------------------------------------------------------------------------

    def space(self, concept: Concept) -> list[str]:
        """The names that the concept's search ranges over."""
        raise NotImplementedError

    def loss(self, draw: Draw) -> Tensor:
        """What theta' descends."""
        raise NotImplementedError

    def objective(self, draw: Draw) -> Tensor:
        """What the search climbs, through `draw.picked`."""
        raise NotImplementedError

    def is_searched(self, _: int) -> bool:
        """Whether concept i has a search."""
        return True

    def search(self, _: Concept, names: list[str], texts: Text) -> Search | Ascent:
        """The concept's search, over names whose texts are (n, T, …)."""
        spec = self.spec
        return Search(names, texts, spec.search_learning_rate, spec.temperature, spec.hard)

    def whole_buffers(self) -> dict[str, Text]:
        """Texts that keep as many trajectories as the spec says, by their keys in the buffer."""
        return {f"erase/{i}": self.concepts[i] for i in self.searches}

    # --- what they share ------------------------------------------------------------------------------------

    @property
    def few(self) -> int:
        """Trajectories that a candidate keeps: a few each, for there are many."""
        return few(self.spec.trajectories, 8)

    def batch(self, i: int, weights: Tensor, g: torch.Generator, size: int) -> Draw:
        """`size` rows for concept i under a draw of its search."""
        run, search, j = self.run, self.searches[i], int(weights.argmax())
        concept, name = self.concepts[i], search.names[j]
        x_concept = run.trajectories.draw(f"erase/{i}", concept, g, size, self.spec.trajectories)
        x_picked = run.trajectories.draw(f"target/{name}", search.texts[j], g, size, self.few)
        row = torch.randint(len(concept), (size,), generator=g)
        picked = search.text(weights, row % search.texts.states.shape[1])
        return Draw(i, x_concept, x_picked, concept[row], concept[row], picked, row, name)

    def step(self, i: int, step: int) -> tuple[Tensor, str | None]:
        run, spec, search = self.run, self.spec, self.searches[i]
        if len(search.names) > 1 and step % spec.search_every == 0:
            g = run.generator(step, Purpose.SEARCH)
            half = max(1, spec.batch_size // 2)
            climbed = self.objective(self.batch(i, search.sample(g), g, half))
            search.ascend(climbed, run.model.gradients)
        g = run.generator(step)
        with torch.no_grad():
            draw = self.batch(i, search.sample(g), g, spec.batch_size)
            asked, x = run.asked(i, draw.concept, g), run.shifted(i, draw.x_concept, draw.concept, g)
            draw = replace(draw, asked=asked, x_concept=x)
        return self.with_held(self.loss(draw), g), draw.name

    def held(self) -> list[str] | None:
        searched = [name for search in self.searches.values() for name in search.names]
        return [*self.run.preserve, *searched]

    def with_held(self, loss: Tensor, g: torch.Generator) -> Tensor:
        """The loss, and the drift of one concept that the user preserves (the second term of Eq. 7)."""
        if not self.kept:
            return loss
        spec = self.spec
        key = list(self.kept)[int(torch.randint(len(self.kept), (1,), generator=g))]
        texts = self.kept[key]
        x = self.run.trajectories.draw(key, texts, g, spec.batch_size, self.few)
        text = texts[torch.randint(len(texts), (spec.batch_size,), generator=g)]
        return loss + spec.preserve_weight * drift(self.run.model, x, text, spec.space)

    def state(self) -> dict[str, Tensor]:
        return {f"{i}.{k}": v for i, search in self.searches.items() for k, v in search.state().items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        for i, search in self.searches.items():
            search.load_state(tensors_under(state, f"{i}."))
