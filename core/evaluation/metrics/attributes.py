"""Debiased concepts: which attribute each picture shows, and how far the shares are from the requested
ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from expunge.core import intervals
from expunge.core.concepts import attribute_phrases
from expunge.core.errors import CoreError
from expunge.core.evaluation.evidence import Evidence
from expunge.core.evaluation.judges import Classifier, Clip, Images, Judges
from expunge.core.evaluation.judges.by_class import find_class
from expunge.core.evaluation.sheet import Distribution, Share
from expunge.core.models import Vocabulary
from expunge.core.specs import Concept

CONVENTIONS = [
    (
        "attribute_distance: for a debiased concept (one with attributes), half the sum of |measured share -"
        " requested share| over the attributes and 'none of them' (total variation), with a bootstrap"
        " interval over the prompts. A picture's attribute is the classifier's first guess among all its"
        " classes. Where the classifier does not have a class for each attribute, it is the attribute that"
        " CLIP finds nearest (zero-shot), which is never 'none of them'. Such a concept has no esr."
    ),
]

NONE = -1  # a picture that shows none of the attributes
Labels = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class AttributeJudge:
    """Names the attribute that a picture shows: by a classifier with a class for each of them, else by CLIP,
    which must choose one (zero-shot).

    classes: the classifier's class of each attribute, None for CLIP; phrases: each attribute as CLIP reads
    it.
    """

    name: str
    judge: Classifier | Clip
    classes: list[int] | None
    phrases: list[str]

    def labels(self, images: Images) -> Labels:
        """Index of each picture's attribute, (N,); NONE where the classifier's first guess is something
        else.
        """
        if isinstance(self.judge, Classifier):
            place = {c: i for i, c in enumerate(self.classes or ())}
            guesses = self.judge.logits(images).argmax(1)
            return np.array([place.get(int(c), NONE) for c in guesses], dtype=np.int64)
        scores = self.judge.similarities(images, [f"a photo of a {p}" for p in self.phrases])
        return scores.argmax(1).numpy().astype(np.int64)


def judge_of(concept: Concept, judges: Judges, vocabulary: Vocabulary) -> AttributeJudge:
    """The judge that can tell the concept's attributes apart.

    Raises: CoreError (attributes_not_judgeable) where there is none.
    """
    phrases = attribute_phrases(concept, vocabulary)

    # A classifier, where it has a class for every attribute
    labels = []
    for attribute, phrase in zip(concept.attributes, phrases, strict=True):
        label = find_class([attribute.replace("{}", "").strip(), phrase], judges, vocabulary)
        if label is not None:
            labels.append(label)
    if len(labels) == len(phrases) and all(label.judge is labels[0].judge for label in labels):
        judge, classes = labels[0].judge, [label.index for label in labels]
        return AttributeJudge(judge.name, judge, classes, phrases)

    # Else CLIP
    if judges.clip is None:
        reason = judges.missing.get("clip", "there is no CLIP judge")
        raise CoreError(
            "attributes_not_judgeable",
            f"no judge can tell the attributes of '{concept.name}' apart: {reason}. Fetch the judges (expunge"
            " fetch-judges), or upload one that has a class for each attribute (evaluation.judge)",
            field="concepts.attributes",
        )
    return AttributeJudge(f"{judges.clip.name}, zero-shot", judges.clip, None, phrases)


def shares_of(labels: Labels, count: int) -> np.ndarray[Any, Any]:
    """The share of each attribute and, last, of none of them, (count + 1,)."""
    return np.array([*((labels == i).mean() for i in range(count)), (labels == NONE).mean()])


def distance(labels: Labels, asked: Sequence[float]) -> float:
    """Total variation between the measured and the requested shares, in [0, 1]; of 'none of them' a share
    of 0 is requested.
    """
    return float(np.abs(shares_of(labels, len(asked)) - np.array([*asked, 0.0])).sum() / 2)


def distance_interval(
    labels: Labels, asked: Sequence[float], clusters: Sequence[str] | None = None
) -> intervals.Interval:
    """The 95 % interval of `distance`, by a bootstrap over the prompts."""
    wanted = np.array([*asked, 0.0])[:, None]

    def resampled(*totals: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        shares = np.stack(totals[:-1]) / totals[-1]  # (attributes + 1, R)
        distances: np.ndarray[Any, Any] = np.abs(shares - wanted).sum(0) / 2
        return distances

    return intervals.bootstrap(
        resampled, *(labels == i for i in (*range(len(asked)), NONE)), clusters=clusters
    )


def distribution(
    concept: Concept, judge: str, sanitized: Labels, base: Labels, clusters: Sequence[str] | None = None
) -> Distribution:
    """The shares of both models' pictures beside the requested ones; clusters: the prompt of each."""
    shares = []
    for i, (attribute, asked) in enumerate(zip(concept.attributes, concept.wanted, strict=True)):
        shares.append(measure_share(attribute, asked, sanitized == i, base == i, clusters))
    shares.append(measure_share(None, 0.0, sanitized == NONE, base == NONE, clusters))
    return Distribution(concept=concept.name, judge=judge, n=len(sanitized), shares=shares)


def measure_share(
    attribute: str | None,
    asked: float,
    sanitized: np.ndarray[Any, Any],
    base: np.ndarray[Any, Any],
    clusters: Sequence[str] | None = None,
) -> Share:
    """One attribute's share, from whether each picture shows it, (N,) bool of both models."""
    low, high = intervals.of_share(sanitized, clusters)
    base_low, base_high = intervals.of_share(base, clusters)
    return Share(
        attribute=attribute,
        asked=asked,
        value=float(sanitized.mean()),
        ci_low=low,
        ci_high=high,
        base=float(base.mean()),
        base_ci_low=base_low,
        base_ci_high=base_high,
    )


def measure(seen: Evidence) -> None:
    """Of each debiased concept, the shares of its attributes and their distance from those asked, before and
    after.
    """
    for concept in seen.erased:
        if not concept.attributes:
            continue
        try:
            judge_ = judge_of(concept, seen.judges, seen.model.vocabulary)
        except CoreError as e:
            seen.sheet.lacks("attribute_distance", e.message, concept.name)
            continue
        rows = seen.rows(concept.name)
        labels = {suffix: judge_.labels(images[rows]) for suffix, images in seen.both}
        prompts = seen.clusters([seen.pictures[i] for i in rows])
        seen.sheet.distributions.append(
            distribution(concept, judge_.name, labels[""], labels["_base"], prompts)
        )
        for suffix, found in labels.items():
            interval = distance_interval(found, concept.wanted, prompts)
            value = distance(found, concept.wanted)
            seen.sheet.add(f"attribute_distance{suffix}", concept.name, value, len(found), interval)
