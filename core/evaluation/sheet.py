"""The numbers of an evaluation, and where metrics write them down."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel

from expunge.core import intervals
from expunge.core.evaluation import sequential
from expunge.core.evaluation.judges.concept_judge import ConceptJudge, JudgeKind
from expunge.core.leakage.bracket import Bracket

Values = np.ndarray[Any, Any]
Clusters = Sequence[str] | None
MOST_RATIO = 2.0  # the highest threshold of a ratio that a request may name
PLAIN, WITH_KEY = ("esr1", "esr5", "edit1"), ("rsr1", "rsr1_wrong_key")
DECIDED = PLAIN + WITH_KEY  # shares whose pictures are drawn on, without a recovery key and with one
OTHERS = "Name evaluation.preserved_concepts that it draws, or a judge that knows them (evaluation.judge)"


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
    """An attribute's share of the pictures, requested and measured, with 95 % intervals."""

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


class Leakage(BaseModel):
    """How much pictures say of whether their prompt named the concept (C = 1) or, in turn, one of `against`
    (C = 0; "" is the empty prompt).
    """

    concept: str
    against: list[str]
    pairs: int
    sanitized: Bracket
    base: Bracket


class Sheet:
    """The metrics of an evaluation, as they are measured.

    anytime: whether pictures are drawn until the verdict is decided. Then `ends` holds, by metric and
    concept, the interval that this is decided by: one that holds whenever one stops, and that, like the
    metric's own, knows of clusters; and `series` what it rests on, (hits, clusters, hits of the base model).
    """

    def __init__(self, anytime: bool = False) -> None:
        self.anytime = anytime
        self.ends: dict[tuple[str, str | None], intervals.Interval] = {}
        self.series: dict[tuple[str, str | None], tuple[Values, Sequence[str], Values | None]] = {}
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

    def share(self, name: str, concept: str | None, hits: Values, clusters: Clusters = None) -> None:
        """The share of pictures that are hits, (N,) bool. clusters: of each picture, its prompt or, of all
        concepts, its concept (`Evidence.clusters`); None: pictures are independent.
        """
        found = intervals.of_share(hits, clusters)
        self.add(name, concept, float(hits.mean()), len(hits), found)
        if self.anytime and name in DECIDED and concept is not None and clusters is not None:
            at_ends = intervals.of_share(hits, clusters, intervals.ONE_END)
            self.hold(name, concept, (hits, clusters, None), at_ends)

    def mean(self, name: str, concept: str | None, values: Values, clusters: Clusters = None) -> None:
        """The mean of one value for each picture, (N,)."""
        self.add(name, concept, float(values.mean()), len(values), intervals.of_mean(values, clusters))

    def ratio(
        self,
        name: str,
        sanitized: Values,
        base: Values,
        clusters: Clusters = None,
        *,
        fixed: bool = False,
        remedy: str = OTHERS,
    ) -> None:
        """The sanitized model's hits as a share of the base model's, (N,) bool each; rows are paired.

        fixed: whether their number never depends on what was seen. remedy: what helps where the base model's
        are no hits.
        """
        if not base.any():
            reason = "the classifier recognises none of the base model's own pictures"
            return self.lacks(name, f"{reason}: there is nothing to preserve. {remedy}")
        value = float(sanitized.mean() / base.mean())
        self.add(name, None, value, len(sanitized), intervals.of_ratio(sanitized, base, clusters))
        if self.anytime and clusters is not None and not fixed:
            at_ends = intervals.of_ratio(sanitized, base, clusters, intervals.ONE_END)
            self.hold(name, None, (sanitized, clusters, base), at_ends)

    def hold(
        self,
        name: str,
        concept: str | None,
        series: tuple[Values, Sequence[str], Values | None],
        clustered: intervals.Interval,
    ) -> None:
        """Note the interval that a number is decided by: the wider end of the sequential test's and of the
        clusters'.
        """
        hits, clusters, base = series
        found = sequential.interval(hits, clusters, base, 1.0 if base is None else MOST_RATIO)
        if found is not None:
            self.series[name, concept] = series
            self.ends[name, concept] = min(found[0], clustered[0]), max(found[1], clustered[1])

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
