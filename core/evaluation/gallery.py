"""The pictures of an evaluation: the first ones, and those drawn on top until the verdict is decided."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from torch import Tensor

from expunge.core.concepts import names_of
from expunge.core.evaluation import sequential
from expunge.core.evaluation.checks import Check, Verdict
from expunge.core.evaluation.evidence import Evidence
from expunge.core.evaluation.judges import Images
from expunge.core.evaluation.metrics import recovery
from expunge.core.evaluation.pictures import Picture, draw, pictures_of
from expunge.core.evaluation.sheet import MOST_RATIO, PLAIN, WITH_KEY
from expunge.core.models import Denoiser
from expunge.core.progress import Callback
from expunge.core.specs import Concept, EvaluationSpec
from expunge.core.specs.cost import most_erased_images, most_preserved_images

Part = Callable[[int, str], Callback]  # announces that many more pictures, and follows their drawing


@dataclass
class Next:
    """What is drawn next: with the sanitized model alone, with keys, with both models."""

    further: list[Picture] = field(default_factory=list)
    hidden: list[Picture] = field(default_factory=list)
    pairs: list[Picture] = field(default_factory=list)


@dataclass
class Gallery:
    """What is drawn to judge a model, and the pictures so far; see `Evidence` for their meaning.

    part: tells of pictures that are drawn next.
    """

    model: Denoiser
    erased: Sequence[Concept]
    preserved: Sequence[str]
    spec: EvaluationSpec
    cache: Path
    delta_digest: str
    keys: Mapping[str, Tensor]
    part: Part
    pictures: list[Picture] = field(default_factory=list)
    base: Images | None = None
    sanitized: Images | None = None
    further: list[Picture] = field(default_factory=list)
    further_images: Images | None = None
    hidden: list[Picture] = field(default_factory=list)
    with_key: dict[str, Images] = field(default_factory=dict)
    next: Next = field(default_factory=Next)

    def begin(self, first: Sequence[Picture]) -> None:
        """Draw the first pictures: with both models, and what is hidden also with its key and a wrong one."""
        self.add_pairs(first)
        self.add_with_keys([p for p in first if p.kind == "template" and p.concept in self.keys])

    def add_pairs(self, asked: Sequence[Picture]) -> None:
        """Draw pictures with both models."""
        base = self.draw(asked, "pictures of the base model", delta_digest=None)
        sanitized = self.draw(asked, "pictures of the sanitized model")
        self.base, self.sanitized = joined(self.base, base), joined(self.sanitized, sanitized)
        self.pictures += asked

    def add_further(self, asked: Sequence[Picture]) -> None:
        """Draw pictures of erased concepts with the sanitized model alone."""
        images = self.draw(asked, "more pictures of the sanitized model")
        self.further_images = joined(self.further_images, images)
        self.further += asked

    def add_with_keys(self, asked: Sequence[Picture]) -> None:
        """Draw hidden concepts' pictures with their keys, and with wrong ones."""
        given = recovery.both(self.model, asked, self.keys, start=len(self.hidden))
        for suffix, keys in given.items():
            images = self.draw(asked, "pictures with the recovery key", keys=keys)
            self.with_key[suffix] = joined(self.with_key.get(suffix), images)
        self.hidden += asked

    def draw(
        self,
        asked: Sequence[Picture],
        message: str,
        *,
        delta_digest: str | None = "",
        keys: Tensor | None = None,
    ) -> Images:
        """Draw pictures with the model as it is or, with a digest of None, with the base model."""
        digest = self.delta_digest if delta_digest == "" else delta_digest
        told = self.part(len(asked), message)
        return draw(
            self.model, asked, self.spec, cache=self.cache, delta_digest=digest, keys=keys, callback=told
        )

    def wanted(self, verdict: Verdict, seen: Evidence) -> int:
        """Choose what the verdict's undecided checks need; returns how many pictures `grow` will draw.

        seen: what the verdict was taken from.
        """
        most, series = most_erased_images(self.spec, len(self.erased)), seen.sheet.series
        undecided = [c for c in verdict.checks if c.cause == "few_pictures"]
        undecided = [c for c in undecided if (c.metric, c.concept) in series]
        self.next = Next()
        plain = [p for p in (*self.pictures, *self.further) if p.kind == "template"]
        for concept in self.erased:
            own = [c for c in undecided if c.concept == concept.name]
            drawn = [p for p in plain if p.concept == concept.name]
            checks = [c for c in own if c.metric in PLAIN]
            self.next.further += self.more_of(concept, drawn, checks, most, seen)
            drawn = [p for p in self.hidden if p.concept == concept.name]
            checks = [c for c in own if c.metric in WITH_KEY]
            self.next.hidden += self.more_of(concept, drawn, checks, most, seen)
        for check in undecided:
            if check.metric == "psr1_ratio":
                self.next.pairs += self.more_pairs(check, seen)
        return len(self.next.further) + 2 * len(self.next.hidden) + 2 * len(self.next.pairs)

    def grow(self) -> bool:
        """Draw what was chosen; False where that is nothing."""
        chosen = self.next
        if chosen.further:
            self.add_further(chosen.further)
        if chosen.hidden:
            self.add_with_keys(chosen.hidden)
        if chosen.pairs:
            self.add_pairs(chosen.pairs)
        return bool(chosen.further or chosen.hidden or chosen.pairs)

    def more_of(
        self, concept: Concept, drawn: Sequence[Picture], checks: Sequence[Check], most: int, seen: Evidence
    ) -> list[Picture]:
        """The next pictures of an erased concept, in whole rounds over its prompts."""
        if not checks:
            return []
        size = len({p.prompt for p in drawn})
        left = (most - len(drawn)) // size
        rounds = min(left, max(next_rounds(check, seen, left) for check in checks))
        total = len(drawn) + max(0, rounds) * size
        every = pictures_of(
            self.model.vocabulary, concept.name, names_of(concept), "erased", total, self.spec.seed
        )
        return every[len(drawn) :]

    def more_pairs(self, check: Check, seen: Evidence) -> list[Picture]:
        """The next pictures of the preserved concepts, as many of each."""
        drawn = sum(p.concept == self.preserved[0] and p.kind == "template" for p in self.pictures)
        left = most_preserved_images(self.spec, len(self.erased)) - drawn
        rounds = max(0, min(left, next_rounds(check, seen, left)))
        more = list[Picture]()
        for name in self.preserved:
            total = drawn + rounds
            every = pictures_of(self.model.vocabulary, name, [name], "preserved", total, self.spec.seed)
            more += every[drawn:]
        return more


def next_rounds(check: Check, seen: Evidence, at_most: int) -> int:
    """How many rounds are drawn before the next look: those that would suffice if all in them went well, but
    a quarter of what there is at least.
    """
    hits, clusters, base = seen.sheet.series[check.metric, check.concept]
    threshold, so_far = check.threshold, max(1, len(hits) // max(1, len(set(clusters))))
    if check.bound == "at most":
        hits, threshold = ~hits, 1 - threshold
    most = 1.0 if base is None else MOST_RATIO
    needed = sequential.rounds_to_pass(hits, clusters, threshold, at_most, base, most)
    return max(needed or 0, -(-so_far // 4))


def joined(images: Images | None, more: Images) -> Images:
    return more if images is None else np.concatenate([images, more])
