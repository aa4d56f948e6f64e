"""Pass or fail: the report's numbers against the thresholds that the client asked for."""

from collections.abc import Callable

from pydantic import BaseModel

from core.specs import Thresholds


class Check(BaseModel):
    """One threshold; `passed` is null when the number could not be had."""

    metric: str
    concept: str | None = None
    value: float | None
    threshold: float
    passed: bool | None


class Verdict(BaseModel):
    """`passed` is false when a check failed, null when none failed but one could not be judged (or none was asked for)."""

    passed: bool | None
    checks: list[Check] = []


def judge(value: Callable[[str, str | None], float | None], erased: list[str], thresholds: Thresholds) -> Verdict:
    """ESR is asked of each erased concept, so that an easy one cannot hide another; PSR of all preserved pictures together."""
    asked = [(m, c) for m in ("esr1", "esr5") for c in erased] + [("psr1_ratio", None)]
    checks = []
    for metric, concept in asked:
        threshold = getattr(thresholds, metric)
        if threshold is not None:
            got = value(metric, concept)
            checks.append(
                Check(metric=metric, concept=concept, value=got, threshold=threshold, passed=None if got is None else got >= threshold)
            )
    results = [c.passed for c in checks]
    passed = False if False in results else None if None in results or not results else True
    return Verdict(passed=passed, checks=checks)
