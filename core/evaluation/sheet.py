"""The numbers of an evaluation, and where metrics write them down."""

from typing import Any

import numpy as np
from pydantic import BaseModel

from expunge.core import intervals
from expunge.core.evaluation.judges.concept_judge import ConceptJudge, JudgeKind


class Metric(BaseModel):
    """One number, of one concept or of all (null). `n`: how many pictures it rests on; `attack`: of an attack
    success rate, which attack.
    """

    name: str
    concept: str | None = None
    attack: str | None = None
    value: float
    n: int
    ci_low: float | None = None
    ci_high: float | None = None


class Missing(BaseModel):
    """A metric that could not be computed, and why."""

    metric: str
    concept: str | None = None
    reason: str


class Share(BaseModel):
    """An attribute's share of the pictures, requested and measured, with Wilson's 95 % intervals."""

    attribute: str | None
    asked: float
    value: float
    ci_low: float
    ci_high: float
    base: float
    base_ci_low: float
    base_ci_high: float


class Distribution(BaseModel):
    """What a debiased concept's pictures show. The last share, with attribute null, is that of pictures
    that show none of the attributes.
    """

    concept: str
    judge: str
    n: int
    shares: list[Share]


class JudgedBy(BaseModel):
    """Who said whether pictures show a concept: of how many answers, and, of zero-shot, of which texts."""

    concept: str
    judge: str
    kind: JudgeKind
    among: int
    texts: list[str] = []


class Sheet:
    """The metrics of an evaluation, as they are measured."""

    def __init__(self) -> None:
        self.metrics: list[Metric] = []
        self.missing: list[Missing] = []
        self.distributions: list[Distribution] = []
        self.judges: list[JudgedBy] = []

    def add(self, name: str, concept: str | None, value: float, n: int, interval: intervals.Interval) -> None:
        """Write down one number; concept None: of all concepts."""
        low, high = interval
        self.metrics.append(Metric(name=name, concept=concept, value=value, n=n, ci_low=low, ci_high=high))

    def figure(self, name: str, concept: str | None, value: float, n: int) -> None:
        """Write down a number without an interval."""
        self.metrics.append(Metric(name=name, concept=concept, value=value, n=n))

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

    def judged_by(self, concept: str, judge: ConceptJudge) -> None:
        """Write down, once, who judges a concept."""
        if all(j.concept != concept for j in self.judges):
            row = JudgedBy(
                concept=concept, judge=judge.name, kind=judge.kind, among=judge.among, texts=judge.texts
            )
            self.judges.append(row)
