"""Which of its attributes each picture of a concept shows, and how far the shares are from those asked
for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import BaseModel

from expunge.core import intervals
from expunge.core.concepts import attribute_phrases
from expunge.core.errors import CoreError
from expunge.core.evaluation.judges import Images, Judges
from expunge.core.evaluation.success_rates import label_of
from expunge.core.models import Vocabulary
from expunge.core.specs import Concept

NONE = -1  # a picture that shows none of the attributes
Labels = np.ndarray[Any, np.dtype[np.int64]]


class Share(BaseModel):
    """An attribute's share of the pictures, asked and found; intervals are Wilson's, of 95 %."""

    attribute: str | None
    asked: float
    value: float
    ci_low: float
    ci_high: float
    base: float
    base_ci_low: float
    base_ci_high: float


class Distribution(BaseModel):
    """What a debiased concept's pictures show; the last share, attribute null, is of pictures that show none
    of the attributes.
    """

    concept: str
    judge: str
    n: int
    shares: list[Share]


@dataclass(frozen=True)
class AttributeJudge:
    """Names the attribute that a picture shows: a classifier with a class for each, else CLIP, which must
    choose one (zero-shot).
    """

    name: str
    judges: Judges
    classes: list[int] | None
    phrases: list[str]
    style: bool

    def labels(self, images: Images) -> Labels:
        """Index of each picture's attribute, (N,); NONE where the classifier's first guess is something
        else.
        """
        if self.classes is not None:
            judge = self.judges.style if self.style else self.judges.concept
            assert judge is not None
            place = {c: i for i, c in enumerate(self.classes)}
            return np.array([place.get(int(c), NONE) for c in judge.logits(images).argmax(1)], dtype=np.int64)
        assert self.judges.clip is not None
        scores = [self.judges.clip.cosine(images, [f"a photo of a {p}"] * len(images)) for p in self.phrases]
        best: Labels = np.stack(scores).argmax(0).astype(np.int64)
        return best


def judge_of(concept: Concept, judges: Judges, vocabulary: Vocabulary) -> AttributeJudge:
    """Who can tell the concept's attributes apart. CoreError attributes_not_judgeable."""
    phrases = attribute_phrases(concept, vocabulary)
    found = [
        label_of([a.replace("{}", "").strip(), p], judges, vocabulary)
        for a, p in zip(concept.attributes, phrases, strict=True)
    ]
    known = [label for label in found if label is not None]
    if len(known) == len(found) and all(label.judge is known[0].judge for label in known):
        return AttributeJudge(
            known[0].judge.name,
            judges,
            [label.index for label in known],
            phrases,
            known[0].judge is judges.style,
        )
    if judges.clip is None:
        raise CoreError(
            "attributes_not_judgeable",
            f"no judge can tell the attributes of '{concept.name}' apart:"
            f" {judges.missing.get('clip', 'there is no CLIP judge')}",
            field="concepts.attributes",
        )
    return AttributeJudge(f"{judges.clip.name}, zero-shot", judges, None, phrases, False)


def shares_of(labels: Labels, count: int) -> np.ndarray[Any, Any]:
    """The share of each attribute and, last, of none, (count + 1,)."""
    return np.array([*((labels == i).mean() for i in range(count)), (labels == NONE).mean()])


def distance(labels: Labels, asked: Sequence[float]) -> float:
    """Total variation between the shares found and asked, in [0, 1]; none of them is asked for never."""
    return float(np.abs(shares_of(labels, len(asked)) - np.array([*asked, 0.0])).sum() / 2)


def distance_interval(labels: Labels, asked: Sequence[float]) -> intervals.Interval:
    """Bootstrap over the pictures."""
    hot = np.stack([labels == i for i in (*range(len(asked)), NONE)], 1).astype(float)
    rows = np.arange(len(labels))
    return intervals.bootstrap(
        lambda index: np.abs(hot[index].mean(1) - np.array([*asked, 0.0])).sum(1) / 2, rows
    )


def distribution(concept: Concept, judge: str, ours: Labels, base: Labels) -> Distribution:
    """The shares of both models' pictures beside those asked for."""
    rows = []
    for i, (name, asked) in enumerate(zip([*concept.attributes, None], [*concept.wanted, 0.0], strict=True)):
        at = i if name is not None else NONE
        (low, high), (base_low, base_high) = (
            intervals.wilson(int((x == at).sum()), len(x)) for x in (ours, base)
        )
        share, of_base = float((ours == at).mean()), float((base == at).mean())
        rows.append(
            Share(
                attribute=name,
                asked=asked,
                value=share,
                ci_low=low,
                ci_high=high,
                base=of_base,
                base_ci_low=base_low,
                base_ci_high=base_high,
            )
        )
    return Distribution(concept=concept.name, judge=judge, n=len(ours), shares=rows)
