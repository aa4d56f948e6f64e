"""The report: its metrics with their intervals, its conventions, its verdict."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pydantic import BaseModel

from expunge.core.attacks import Broken
from expunge.core.attacks.result import AttackResult
from expunge.core.evaluation.checks import Verdict
from expunge.core.evaluation.judges import Images
from expunge.core.evaluation.pictures import Picture
from expunge.core.evaluation.sheet import Distribution, JudgedBy, Leakage, Metric, Missing
from expunge.core.evaluation.sights import Sight
from expunge.core.evaluation.trigger_scan import Scan
from expunge.core.evaluation.verdict import FEW
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
        "Intervals are 95 % intervals that know which pictures belong together (of one concept those of a"
        " prompt, of several those of a concept): of shares, Wilson's at the effective sample size; of means"
        " and ratios, a seeded, paired percentile bootstrap over these clusters with 2000 resamples, widened"
        " for few of them (Hesterberg, 2015)."
    ),
    (
        "verdict: a check is passed where its interval's lower end reaches the threshold (the upper end, of"
        " 'at most'), failed where the upper end does not, else not shown. esr is checked for each erased"
        f" concept on its own; where several have fewer than {FEW} pictures each, over all of them too. Where"
        " the base model shows a concept in less than half of its pictures, its erasure is not shown. One"
        " failed check fails the verdict; else one that is not shown leaves it not shown."
    ),
    (
        "until_decided: the interval of a check of esr, edit, rsr or psr1_ratio is then one that holds"
        " whenever one stops to look (a test by betting, Waudby-Smith and Ramdas, 2023), for the mean over"
        " the prompts, or preserved concepts, that were drawn (psr1_ratio: not where a style is erased); each"
        " end is wrong in at most 5 % of"
        " evaluations. Where the clusters' own 95 % end lies farther out, that end counts. What was drawn on"
        " was drawn by the sanitized model alone: it counts for esr, edit and rsr, not for other numbers."
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
    leakage: list[Leakage] = []
    scans: list[Scan] = []
    not_available: list[Missing] = []
    not_tested: list[str] = []
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
    attacks, with the pictures of their best attempts. further: what the sanitized model alone drew until the
    verdict was decided. sights: what the judges see in each picture of the sanitized model
    ("") and of the base model ("_base"); empty where nobody looked.
    """

    report: Report
    pictures: list[Picture]
    base: Images
    sanitized: Images
    detections: list[dict[str, Any]] = field(default_factory=list)
    recovered: dict[int, np.ndarray[Any, Any]] = field(default_factory=dict)
    broken: list[Broken] = field(default_factory=list)
    further: Sequence[Picture] = ()
    sights: Mapping[str, Sequence[Sight | None]] = field(default_factory=dict)
