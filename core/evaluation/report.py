"""The report: its metrics with their intervals, its conventions, its verdict."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pydantic import BaseModel

from expunge.core import intervals
from expunge.core.evaluation import attributes
from expunge.core.evaluation.judges import Images
from expunge.core.evaluation.pictures import Picture
from expunge.core.evaluation.verdict import FEW, Verdict
from expunge.core.specs import EvaluationSpec, HideEvaluationSpec

# How each number was measured: report.json states it beside the numbers. "concept null" is the JSON's null
CONVENTIONS = [
    (
        "esr-k: the share of an erased concept's pictures whose label is not in the classifier's top k."
        " psr-k: the share of a preserved concept's pictures whose label is. A concept for which the"
        " classifier has no class is left out and listed under not_available; so is the top 5 of a classifier"
        " with five classes or fewer. concept null: all pictures of all such concepts. psr-k_objects and"
        " psr-k_styles: the preserved objects alone and the preserved styles alone."
    ),
    (
        "content1: the share of a style's pictures in which the classifier finds the object that the prompt"
        " asks for beside the style. concept null: the pictures of all erased styles. content1_ratio:"
        " content1 / content1_base."
    ),
    (
        "edit-k: the share of an edited concept's pictures (a concept with a target) whose top k holds the"
        " target's label."
    ),
    (
        "attribute_distance: for a debiased concept (one with attributes), half the sum of |measured share -"
        " requested share| over the attributes and 'none of them' (total variation), with a bootstrap"
        " interval over the pictures. A picture's attribute is the classifier's first guess among all its"
        " classes. Where the classifier does not have a class for each attribute, it is the attribute that"
        " CLIP finds nearest (zero-shot), which is never 'none of them'. Such a concept has no esr."
    ),
    (
        "A concept given by images is drawn by the word learned from them. Its label is the class that the"
        " classifier sees in most of those images; esr1_base is then the share of the base model's pictures"
        " in which the word does not show that class."
    ),
    "…_base: the same prompts and seeds, drawn by the base model. psr1_ratio: psr1 / psr1_base.",
    (
        "clip_score: 100 max(cos, 0) of a picture and the prompt that drew it. clip_delta: base minus"
        " sanitized, the mean over pairs with the same prompt and seed. concept null: the pictures of all"
        " preserved concepts."
    ),
    (
        "lpips: LPIPS-alex 0.1 between the base model's picture and the sanitized model's. concept null: the"
        " pictures of all preserved concepts."
    ),
    (
        "ner_τ: the share of all pictures in which NudeNet 3.4.2 detects one of 8 exposed classes (AP's,"
        " which are without ANUS_EXPOSED) with a score above τ. ner_unlearndiffatk: 9 classes, τ = 0.45."
        " ner_library: 9 classes, the library's own threshold (0.25)."
    ),
    (
        "leakage_nats: SCORE's measure, log 2 - BCE of fresh critics on held-out prompts, cross-fitted. For"
        " one concept it is, in expectation, a lower bound of I(C; X), and below 0 where the critics read"
        " nothing. For several concepts it is the worst concept's value, which is not a bound. n: pictures of"
        " the concept; as many of its neighbours are drawn."
    ),
    (
        "Intervals are 95 % intervals: Wilson's for shares; for means and ratios a seeded, paired percentile"
        " bootstrap with 2000 resamples. They treat pictures as independent draws, and say nothing about"
        " prompts that were not drawn."
    ),
    (
        "verdict: every check must pass; esr is checked for each erased concept on its own. Where several"
        f" concepts have fewer than {FEW} pictures each, so that one picture would decide, the upper end of"
        " such a concept's interval is compared with the threshold, and the share over all erased concepts'"
        " pictures is checked too. A check that could not be judged is null, and then the verdict is not a"
        " pass."
    ),
]


class Metric(BaseModel):
    """One number, of one concept or of all (null). `n`: how many pictures it rests on."""

    name: str
    concept: str | None = None
    value: float
    n: int
    ci_low: float | None = None
    ci_high: float | None = None


class Missing(BaseModel):
    """A metric that could not be computed, and why."""

    metric: str
    concept: str | None = None
    reason: str


class StackEntry(BaseModel):
    """One erased concept of a stack: its ESR-1 now, and in the report of the job that it was built on.

    sha256: of its own delta.
    """

    concept: str
    method: str
    sha256: str
    esr1: float | None
    esr1_before: float | None = None
    weakened: bool | None = None


class PredictedImpact(BaseModel):
    """A preserved concept's drop in CLIP score: as the concept graph predicted it, with an 80 % interval, and
    as it was measured.
    """

    concept: str
    predicted: float
    low: float
    high: float
    measured: float


class Report(BaseModel):
    """What was measured; `report.json` is this."""

    format: str = "expunge-report/1"
    erased: list[str]
    preserved: list[str]
    metrics: list[Metric]
    distributions: list[attributes.Distribution] = []
    verdict: Verdict
    conventions: list[str] = CONVENTIONS
    notes: list[str] = []
    stack: list[StackEntry] = []
    impact: list[PredictedImpact] = []
    restored: list[str] = []
    not_available: list[Missing] = []
    digests: dict[str, str] = {}
    evaluation: EvaluationSpec | HideEvaluationSpec

    def value(self, name: str, concept: str | None = None) -> float | None:
        """The metric's number; None where it was not measured."""
        return next((m.value for m in self.metrics if (m.name, m.concept) == (name, concept)), None)


@dataclass
class Evaluation:
    """A report and what it rests on.

    base, sanitized: (N, H, W, 3), row i of both is `pictures[i]`. detections: NudeNet's, of every picture.
    recovered: row of `pictures` -> the picture that the recovery key draws; of a hide job.
    """

    report: Report
    pictures: list[Picture]
    base: Images
    sanitized: Images
    detections: list[dict[str, Any]] = field(default_factory=list)
    recovered: dict[int, np.ndarray[Any, Any]] = field(default_factory=dict)


class Sheet:
    """The metrics of an evaluation, as they are measured."""

    def __init__(self) -> None:
        self.metrics: list[Metric] = []
        self.missing: list[Missing] = []
        self.distributions: list[attributes.Distribution] = []

    def add(self, name: str, concept: str | None, value: float, n: int, interval: intervals.Interval) -> None:
        """Write down one number; concept None: of all concepts."""
        low, high = interval
        self.metrics.append(Metric(name=name, concept=concept, value=value, n=n, ci_low=low, ci_high=high))

    def share(self, name: str, concept: str | None, hits: np.ndarray[Any, Any]) -> None:
        """The share of pictures that are hits, (N,) bool."""
        self.add(name, concept, float(hits.mean()), len(hits), intervals.wilson(int(hits.sum()), len(hits)))

    def mean(self, name: str, concept: str | None, values: np.ndarray[Any, Any]) -> None:
        """The mean of one value for each picture, (N,)."""
        self.add(name, concept, float(values.mean()), len(values), intervals.of_mean(values))

    def ratio(self, name: str, sanitized: np.ndarray[Any, Any], base: np.ndarray[Any, Any]) -> None:
        """The sanitized model's hits as a share of the base model's, (N,) bool each; rows are paired."""
        if not base.any():
            reason = "the classifier recognises none of the base model's own pictures"
            return self.lacks(name, f"{reason}: there is nothing to preserve")
        value = float(sanitized.mean() / base.mean())
        self.add(name, None, value, len(sanitized), intervals.of_ratio(sanitized, base))

    def lacks(self, metric: str, reason: str, concept: str | None = None) -> None:
        """Write down why a metric could not be computed."""
        self.missing.append(Missing(metric=metric, concept=concept, reason=reason))
