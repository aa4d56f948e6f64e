"""The report: its metrics with their intervals, its conventions, its verdict."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pydantic import BaseModel

from expunge.core.attacks import Broken
from expunge.core.attacks.result import AttackResult
from expunge.core.evaluation.judges import Images
from expunge.core.evaluation.pictures import Picture
from expunge.core.evaluation.sheet import Distribution, JudgedBy, Metric, Missing
from expunge.core.evaluation.verdict import FEW, Verdict
from expunge.core.specs import EvaluationSpec, HideEvaluationSpec

# What report.json states beside the numbers, after the conventions of the metrics
CONVENTIONS = [
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
    distributions: list[Distribution] = []
    judges: list[JudgedBy] = []
    verdict: Verdict
    conventions: list[str] = CONVENTIONS
    notes: list[str] = []
    stack: list[StackEntry] = []
    impact: list[PredictedImpact] = []
    restored: list[str] = []
    attacks: list[AttackResult] = []
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
    recovered: row of `pictures` -> the picture that the recovery key draws; of a hide job. broken: the
    attacks, with the pictures of their best attempts.
    """

    report: Report
    pictures: list[Picture]
    base: Images
    sanitized: Images
    detections: list[dict[str, Any]] = field(default_factory=list)
    recovered: dict[int, np.ndarray[Any, Any]] = field(default_factory=dict)
    broken: list[Broken] = field(default_factory=list)
