"""What every metric reads: the pictures of both models, the judges, and the sheet that numbers are written
on.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from expunge.core.evaluation.judges import ConceptJudge, Images, Judges
from expunge.core.evaluation.judges.broken import KnowsBroken, Limits
from expunge.core.evaluation.judges.choose import find_judge
from expunge.core.evaluation.judges.inception import Inception, load_inception
from expunge.core.evaluation.pictures import Kind, Picture
from expunge.core.evaluation.sheet import Sheet
from expunge.core.models import Denoiser
from expunge.core.specs import Concept, EvaluationSpec
from expunge.core.specs.prompt_sets import Prompt

Rows = np.ndarray[Any, Any]
MAX_CATEGORIES = 8  # of a prompt set, that a report shows


@dataclass(frozen=True)
class Prompted:
    """A prompt set, and what NudeNet found in the pictures of each model ("", "_base"), row by row."""

    prompts: Sequence[Prompt]
    detections: Mapping[str, list[Any]]

    def rows(self) -> list[dict[str, Any]]:
        """Each row as the stored detections name it."""
        return [
            {
                "role": "prompts",
                "line": row.line,
                "prompt": row.prompt,
                "seed": row.seed,
                "guidance": row.guidance,
                "categories": row.categories,
            }
            for row in self.prompts
        ]

    def by_category(self) -> dict[str, list[int]]:
        """The rows of each category, the largest first, as far as a report shows them."""
        found: dict[str, list[int]] = {}
        for i, row in enumerate(self.prompts):
            for category in row.categories:
                found.setdefault(re.sub(r"[^a-z0-9]+", "_", category).strip("_"), []).append(i)
        found.pop("", None)
        largest = sorted(found, key=lambda name: (-len(found[name]), name))[:MAX_CATEGORIES]
        return {name: found[name] for name in largest}


@dataclass
class Evidence:
    """What every metric reads, and the sheet that they write on.

    pictures: what was asked for; base, sanitized: what the two models drew of it, (N, H, W, 3) uint8.
    held: names of the concepts that the run saw while training; None where that is not known.
    further, further_images: pictures of erased concepts that the sanitized model alone drew, until the
    verdict was decided; they count for the shares of it (`drawn`).
    hidden, with_key: of a hide job, the pictures that were drawn with a recovery key, and what the sanitized
    model drew of them with it, under "", and with a wrong one, under "_wrong_key".
    detections: what NudeNet found in each picture, to be stored.
    prompted: what it found in the pictures of a prompt set, which are not kept; None without one.
    networks: sha256 of what judged besides the judges.
    """

    model: Denoiser
    judges: Judges
    erased: Sequence[Concept]
    preserved: Sequence[str]
    pictures: list[Picture]
    base: Images
    sanitized: Images
    held: Sequence[str] | None = None
    further: Sequence[Picture] = ()
    further_images: Images | None = None
    hidden: Sequence[Picture] = ()
    with_key: Mapping[str, Images] = field(default_factory=dict)
    detections: list[dict[str, Any]] = field(default_factory=list)
    sheet: Sheet = field(default_factory=Sheet)
    spec: EvaluationSpec = field(default_factory=EvaluationSpec)
    prompted: Prompted | None = None
    networks: dict[str, str] = field(default_factory=dict)
    loaded: Inception | None = None

    @property
    def both(self) -> tuple[tuple[str, Images], tuple[str, Images]]:
        """The suffix of a metric's name, and the pictures that it is of."""
        return ("", self.sanitized), ("_base", self.base)

    def rows(self, concept: str, *kinds: Kind) -> Rows:
        """Which of the pictures are a concept's, of these kinds; of its templates where none are named."""
        wanted = kinds or ("template",)
        return np.array(
            [i for i, p in enumerate(self.pictures) if p.concept == concept and p.kind in wanted], dtype=int
        )

    @property
    def kept(self) -> Rows:
        """Which of the pictures are the preserved concepts' by their templates, (N,) bool."""
        return np.array([p.role == "preserved" and p.kind == "template" for p in self.pictures], dtype=bool)

    @property
    def templates(self) -> Rows:
        """Which of the pictures are of a template, (M,): those that means over pictures are of."""
        return np.array([i for i, p in enumerate(self.pictures) if p.kind == "template"], dtype=int)

    def spread(self, values: Rows) -> Rows:
        """Numbers of the templates' pictures, (M, ...), in the rows of all pictures, (N, ...); else 0."""
        found = np.zeros((len(self.pictures), *values.shape[1:]), values.dtype)
        found[self.templates] = values
        return found

    @cached_property
    def clip_features(self) -> dict[str, Rows] | None:
        """The CLIP judge's image features of both models' pictures, (N, D) of unit length, 0 where they are
        not of a template; None without it.
        """
        clip, rows = self.judges.clip, self.templates
        if clip is None or not len(rows):
            return None
        return {
            suffix: self.spread(clip.image_features(images[rows]).numpy()) for suffix, images in self.both
        }

    def inception(self) -> Inception:
        """The network of KID and FID. Raises: CoreError where it is not here."""
        if self.loaded is None:
            self.loaded = load_inception(self.judges.inception, str(self.model.device))
            self.networks[f"features ({self.loaded.name})"] = self.loaded.digest
        return self.loaded

    @cached_property
    def limits(self) -> Limits:
        """Beyond which a picture is constant or noise-like, by the base model's pictures."""
        return Limits.of(self.base)

    def drawn(self, concept: str, suffix: str) -> tuple[Images, list[Picture]]:
        """A concept's pictures as one model drew them, "" or "_base", and what was asked for."""
        rows = self.rows(concept)
        images, asked = dict(self.both)[suffix][rows], [self.pictures[i] for i in rows]
        more = [i for i, p in enumerate(self.further) if p.concept == concept]
        if suffix or not more or self.further_images is None:
            return images, asked
        return np.concatenate([images, self.further_images[more]]), asked + [self.further[i] for i in more]

    @staticmethod
    def clusters(pictures: Sequence[Picture]) -> list[str]:
        """Which pictures belong together: of several concepts those of one, of one concept those of a
        prompt.
        """
        several = len({p.concept for p in pictures}) > 1
        return [p.concept if several else p.prompt for p in pictures]

    def share(self, name: str, concept: str | None, hits: Rows, rows: Rows) -> None:
        """Write down the share of hits among these rows of the pictures; hits: of all of them, (N,) bool."""
        self.sheet.share(name, concept, hits[rows], self.clusters([self.pictures[i] for i in rows]))

    @property
    def names(self) -> list[str]:
        """The erased concepts, by name."""
        return [c.name for c in self.erased]

    def words_of(self, concept: Concept) -> list[str]:
        """The names that count as an erased concept, its own first."""
        return [concept.name, *concept.synonyms, *self.model.shows(concept.name)]

    def judge(self, names: list[str]) -> ConceptJudge:
        """Who says whether a picture shows the concept that has these names, the first of which is its own;
        the report says who it was. Raises: CoreError where nobody can.
        """
        found = find_judge(names, self.judges, self.model)
        self.sheet.judged_by(names[0], found)
        return KnowsBroken(found, self.limits)

    def mean_by_concept(self, name: str, values: Rows) -> None:
        """The mean of a number of each picture: by concept, and over the preserved ones."""
        for concept in dict.fromkeys((*self.names, *self.preserved)):
            rows = self.rows(concept)
            self.sheet.mean(name, concept, values[rows], self.clusters([self.pictures[i] for i in rows]))
        if self.kept.any():
            kept = [p for p, own in zip(self.pictures, self.kept, strict=True) if own]
            self.sheet.mean(name, None, values[self.kept], self.clusters(kept))
