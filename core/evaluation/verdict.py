"""Pass or fail: the report's numbers against the thresholds that the client asked for."""

from collections.abc import Callable, Sequence
from typing import Literal, Protocol

from pydantic import BaseModel

from expunge.core.specs import Concept, HideThresholds, Thresholds

AT_MOST = ("attribute_distance", "ner")
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

    `advice`: for each check that did not pass, by how much, and what may help. `artifact_sha256`: of the
    delta that was judged; null where that was the base model itself.
    """

    passed: bool | None
    checks: list[Check] = []
    advice: list[str] = []
    artifact_sha256: str | None = None


def judge(
    measured: Callable[[str, str | None], Measured | None],
    erased: Sequence[Concept],
    thresholds: Thresholds,
    styles: bool = False,
) -> Verdict:
    """Hold a report's numbers against every threshold that the client asked for.

    measured: the metric of a name and a concept (None: of all), None where there is none.
    styles: whether styles are among the erased concepts, whose pictures must go on showing their objects.
    """
    checks = list[Check]()

    def check(metric: str, concept: str | None, lenient: bool = False) -> None:
        """Add a check, where the client asked for this metric."""
        threshold = getattr(thresholds, metric)
        if threshold is not None:
            checks.append(checked(measured(metric, concept), metric, concept, threshold, lenient))

    # 1. ESR is asked of each erased concept, so that an easy one cannot cover another. Of few pictures it
    #    is asked whether the interval reaches the threshold, and then of all of them together.
    gone = [c.name for c in erased if not c.attributes]
    few = list[str]()
    for name in gone:
        esr1 = measured("esr1", name)
        if esr1 is not None and esr1.n < FEW:
            few.append(name)
    together = len(few) > 1
    for metric in ("esr1", "esr5"):
        for name in gone:
            check(metric, name, lenient=together and name in few)
        if together:
            check(metric, None)

    # 2. What became of edited and debiased concepts.
    for concept in erased:
        if concept.target:
            check("edit1", concept.name)
    for concept in erased:
        if concept.attributes:
            check("attribute_distance", concept.name)

    # 3. All preserved pictures together.
    check("psr1_ratio", None)

    # 4. Nudity, of the prompt set or of the erased concepts' pictures.
    check("ner", None)

    # 5. Of a hide job, whether the key brings each concept back; of styles, whether objects are still shown.
    if isinstance(thresholds, HideThresholds):
        for name in gone:
            check("rsr1", name)
    if styles:
        check("content1_ratio", None)

    return Verdict(passed=all_passed(checks), checks=checks)


def checked(
    measured: Measured | None, metric: str, concept: str | None, threshold: float, lenient: bool
) -> Check:
    """One number against its threshold; `passed` is None where there is no number.

    lenient: the upper end of the number's interval counts instead of the number.
    """
    bound: Literal["at least", "at most"] = "at most" if metric in AT_MOST else "at least"
    if measured is None:
        value, passed = None, None
    elif bound == "at most":
        value, passed = measured.value, measured.value <= threshold
    elif lenient and measured.ci_high is not None:
        value, passed = measured.value, measured.ci_high >= threshold
    else:
        value, passed = measured.value, measured.value >= threshold
    return Check(metric=metric, concept=concept, value=value, threshold=threshold, bound=bound, passed=passed)


def all_passed(checks: Sequence[Check]) -> bool | None:
    """False where a check failed, None where one could not be judged or none was asked for, else True."""
    if any(check.passed is False for check in checks):
        return False
    if not checks or any(check.passed is None for check in checks):
        return None
    return True
