"""What an erasure is likely to hurt, and which target is best: read from a model's measured concept graph.
Imports no torch.

The graph is AGE's (Bui et al., ICLR 2025): an edge from the erased concept to another holds the drop in that
one's CLIP score. `concept_graph.json` beside the model's weights has the edges measured, a fit of the drop to
distance and to the base model's own score, and every concept's neighbours.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from expunge.core.specs.concepts import Concept
from expunge.core.specs.method import MethodSpec
from expunge.core.specs.methods import METHODS
from expunge.core.specs.names import Names, folded

FILE = "concept_graph.json"
FORMAT = "expunge-concept-graph/1"
# Distances at which, and over which, the drop falls off: chosen on the bundled model
ORIGIN, SCALE = (8.0, 2.0)
BANDS = (11.0, 13.0, math.inf)  # near, middle, far: intervals are of each band's own held-out errors


def features(distance: float, g0: float) -> tuple[float, float, float, float]:
    """What the drop is fitted to: nearness exp(-(d - 8) / 2), the base model's own CLIP score G0 (as a
    share), and both together.
    """
    near = math.exp(-(distance - ORIGIN) / SCALE)
    return 1.0, near, g0 / 100, near * g0 / 100


def band(distance: float) -> int:
    """0 near, 1 middle, 2 far."""
    return next(i for i, end in enumerate(BANDS) if distance < end)


@dataclass(frozen=True)
class Drop:
    """A predicted drop with the interval that holds 80 % of the held-out errors."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Hurt:
    """A concept that the erasure of `erased` is predicted to hurt: CLIP score in points, PSR-1 as a share."""

    concept: str
    erased: str
    distance: float
    clip: Drop
    psr: Drop


@dataclass(frozen=True)
class Target:
    """A concept that `concept` may become, and why."""

    target: str
    distance: float
    g0: float
    reason: str


@dataclass(frozen=True)
class Cost:
    """What erasing takes by a method, scaled from what was measured at its defaults."""

    seconds: float
    unet_evaluations: int


class Graph:
    """A model's concept graph as its file holds it."""

    def __init__(self, content: dict[str, Any]) -> None:
        self.content = content
        self.concepts: dict[str, dict[str, Any]] = content["concepts"]
        self.names = list(self.concepts)
        self.spelt = {folded(name): name for name in reversed(self.names)}

    @cached_property
    def forms(self) -> Names:
        """The names in all their forms."""
        return Names(self.names)

    def find(self, name: str) -> str | None:
        """The concept's name as the graph spells it."""
        return self.spelt.get(folded(name))

    def near(self, name: str) -> list[tuple[str, float]]:
        """The nearest concepts, the nearest first."""
        return [(self.names[i], away) for i, away in self.concepts[name]["near"]]

    def predict(self, distance: float, g0: float, scale: float = 1.0) -> tuple[Drop, Drop]:
        """Drops of CLIP score and of PSR-1 of a concept at a distance, for a method that hurts `scale` times
        as much as the graph's.
        """
        x, k = features(distance, g0), band(distance)

        def drop(kind: str, most: float) -> Drop:
            fitted = sum(w * f for w, f in zip(self.content["fit"][kind]["weights"], x, strict=True))
            low, high = self.content["fit"][kind]["errors"][k]
            return Drop(*(max(-most, min(most, scale * v)) for v in (fitted, fitted + low, fitted + high)))

        return drop("clip", g0), drop("psr", 1.0)

    def scale(self, method: str) -> float | None:
        """How much a method hurts beside the one the graph was measured with; None where it was not
        measured.
        """
        found = self.content["methods"].get(method)
        return None if found is None else found["scale"]

    def hurt(self, concepts: Sequence[Concept], scale: float, top: int) -> list[Hurt]:
        """The concepts predicted to lose most when these are erased together; each counts by the erased
        concept nearest to it.
        """
        words = [word for c in concepts for word in (c.name, *c.synonyms)]
        known = [self.find(word) for word in words]
        erased = dict.fromkeys(name for name in known if name is not None)
        nearest: dict[str, tuple[float, str]] = {}
        for name in erased:
            for other, away in self.near(name):
                if other not in erased:
                    nearest[other] = min(nearest.get(other, (math.inf, "")), (away, name))
        found = [
            Hurt(n, e, d, *self.predict(d, self.concepts[n]["g0"], scale)) for n, (d, e) in nearest.items()
        ]
        return sorted(found, key=lambda h: -h.clip.value)[:top]

    def targets(self, concept: Concept, erased: Sequence[Concept], count: int) -> list[Target]:
        """In-class concepts, close but no synonyms, that the model draws well (the 'fantastic targets'); the
        best first.

        A name that shares a word with the concept ('police car' of 'car') counts as a synonym.
        """
        name = self.find(concept.name)
        gone = {folded(w) for c in erased for w in (c.name, *c.synonyms)}
        words = {w for text in (concept.name, *concept.synonyms) for w in text.casefold().split()}
        if name is None:
            return []
        kind = self.concepts[name].get("class")
        found = []
        for other, away in self.near(name):
            facts = self.concepts[other]
            if folded(other) in gone or words & set(other.casefold().split()):
                continue
            inside = kind is not None and facts.get("class") == kind
            where = (
                f"in-class ({kind}), "
                if inside
                else f"of another class ({facts['class']}), "
                if kind and facts.get("class")
                else ""
            )
            reason = (
                f"{where}close ({away:.1f}), no synonym; the model draws it with a CLIP score of"
                f" {facts['g0']:.0f}"
            )
            found.append((not inside, away - facts["g0"] / 20, Target(other, away, facts["g0"], reason)))
        return [t for *_, t in sorted(found, key=lambda f: f[:2])[:count]]

    def cost(self, method: MethodSpec, concepts: int) -> Cost | None:
        """Seconds and U-Net evaluations, in proportion to concepts, steps and latents a step; None where
        the method was not measured.
        """
        found = self.content["methods"].get(method.name)
        if found is None:
            return None
        usual, times = METHODS[method.name](), float(concepts)
        for field in ("steps", "batch_size"):
            if hasattr(method, field):
                times *= getattr(method, field) / getattr(usual, field)
        return Cost(round(found["seconds"] * times, 1), round(found["unet_evaluations"] * times))


@lru_cache(maxsize=16)
def read(path: Path, _: float) -> Graph:
    return Graph(json.loads(path.read_text()))


def graph_of(folder: Path | None) -> Graph | None:
    """The concept graph beside a model's weights; None where there is none."""
    path = folder / FILE if folder is not None else None
    return read(path, path.stat().st_mtime) if path is not None and path.exists() else None
