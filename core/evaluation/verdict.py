"""Pass or fail: the report's numbers against the thresholds that the client asked for."""

from collections.abc import Callable, Sequence
from typing import Literal

from pydantic import BaseModel

from core.specs import Concept, HideThresholds, Thresholds


class Check(BaseModel):
    """One threshold; `passed` is null when the number could not be had."""

    metric: str
    concept: str | None = None
    value: float | None
    threshold: float
    bound: Literal["at least", "at most"] = "at least"
    passed: bool | None


class Verdict(BaseModel):
    """`passed` is false when a check failed, null when none failed but one could not be judged (or none was asked for)."""

    passed: bool | None
    checks: list[Check] = []


def judge(value: Callable[[str, str | None], float | None], erased: Sequence[Concept], thresholds: Thresholds) -> Verdict:
    """ESR, and RSR of a hide job, is asked of each concept, so that an easy one cannot cover another; PSR of all preserved pictures together."""
    gone, edited, spread = (
        [c.name for c in erased if wanted(c)] for wanted in (lambda c: not c.attributes, lambda c: c.target, lambda c: c.attributes)
    )
    asked: list[tuple[str, str | None]] = [(m, c) for m in ("esr1", "esr5") for c in gone]
    asked += [*(("edit1", c) for c in edited), *(("attribute_distance", c) for c in spread), ("psr1_ratio", None)]
    asked += [("rsr1", c) for c in gone if isinstance(thresholds, HideThresholds)]
    checks = []
    for metric, concept in asked:
        threshold = getattr(thresholds, metric)
        if threshold is not None:
            got, most = value(metric, concept), metric == "attribute_distance"
            passed = None if got is None else got <= threshold if most else got >= threshold
            bound: Literal["at least", "at most"] = "at most" if most else "at least"
            checks.append(Check(metric=metric, concept=concept, value=got, threshold=threshold, bound=bound, passed=passed))
    results = [c.passed for c in checks]
    passed_all = False if False in results else None if None in results or not results else True
    return Verdict(passed=passed_all, checks=checks)
