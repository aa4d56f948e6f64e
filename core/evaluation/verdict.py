"""Pass or fail: the report's numbers against the thresholds that the client asked for."""

from collections.abc import Callable, Sequence
from typing import Literal, Protocol

from pydantic import BaseModel

from expunge.core.specs import Concept, HideThresholds, Thresholds

FEW = 20  # pictures of a concept: with fewer, one of them alone is more than 5 %


class Measured(Protocol):
    """A metric, as `report.Metric` has it."""

    value: float
    n: int
    ci_high: float | None


class Check(BaseModel):
    """One threshold; `passed` is null when the number could not be had."""

    metric: str
    concept: str | None = None
    value: float | None
    threshold: float
    bound: Literal["at least", "at most"] = "at least"
    passed: bool | None


class Verdict(BaseModel):
    """`passed` is false when a check failed, null when none failed but one could not be judged (or none was
    asked for).

    `advice`: for each check that did not pass, by how much, and what may help.
    """

    passed: bool | None
    checks: list[Check] = []
    advice: list[str] = []


def judge(
    found: Callable[[str, str | None], Measured | None],
    erased: Sequence[Concept],
    thresholds: Thresholds,
    styles: bool = False,
) -> Verdict:
    """ESR, and RSR of a hide job, is asked of each concept, so that an easy one cannot cover another; PSR of
    all preserved pictures together.

    ESR of few pictures is asked whether its interval reaches the threshold, and then all of them together
    whether they do. `styles`: whether styles are among the erased concepts, whose pictures must go on showing
    their objects.
    """
    gone, edited, spread = (
        [c.name for c in erased if wanted(c)]
        for wanted in (lambda c: not c.attributes, lambda c: c.target, lambda c: c.attributes)
    )
    few = [c for c in gone if (m := found("esr1", c)) is not None and m.n < FEW]
    asked: list[tuple[str, str | None]] = [
        (m, c) for m in ("esr1", "esr5") for c in (*gone, *([None] if len(few) > 1 else []))
    ]
    asked += [
        *(("edit1", c) for c in edited),
        *(("attribute_distance", c) for c in spread),
        ("psr1_ratio", None),
    ]
    asked += [("rsr1", c) for c in gone if isinstance(thresholds, HideThresholds)]
    asked += [("content1_ratio", None)] if styles else []
    checks = []
    for metric, concept in asked:
        threshold = getattr(thresholds, metric)
        if threshold is not None:
            got = found(metric, concept)
            lenient = len(few) > 1 and concept in few and metric.startswith("esr")
            bound: Literal["at least", "at most"] = (
                "at most" if metric == "attribute_distance" else "at least"
            )
            passed = None if got is None else reaches(got, threshold, bound, lenient)
            checks.append(
                Check(
                    metric=metric,
                    concept=concept,
                    value=got and got.value,
                    threshold=threshold,
                    bound=bound,
                    passed=passed,
                )
            )
    results = [c.passed for c in checks]
    passed_all = False if False in results else None if None in results or not results else True
    return Verdict(passed=passed_all, checks=checks)


def reaches(got: Measured, threshold: float, bound: Literal["at least", "at most"], lenient: bool) -> bool:
    """Whether the number, or with leniency the upper end of its interval, keeps to the threshold."""
    if bound == "at most":
        return got.value <= threshold
    return (got.ci_high if lenient and got.ci_high is not None else got.value) >= threshold
