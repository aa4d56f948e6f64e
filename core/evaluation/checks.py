"""What a verdict is made of: checks, each with its reason."""

from typing import Any, Literal, Protocol

from pydantic import BaseModel, model_validator

Delivery = Literal["published", "marked", "withheld"]
Status = Literal["passed", "failed", "not shown"]
Cause = Literal["reached", "missed", "few_pictures", "base_rate", "not_judged", "weak_attack"]
PASSED: dict[Status, bool | None] = {"passed": True, "failed": False, "not shown": None}


class Measured(Protocol):
    """A metric, as `report.Metric` has it."""

    @property
    def value(self) -> float: ...
    @property
    def n(self) -> int: ...
    @property
    def ci_low(self) -> float | None: ...
    @property
    def ci_high(self) -> float | None: ...


class Missing(Protocol):
    """Why a metric is not there, as `sheet.Missing` has it."""

    metric: str
    concept: str | None
    reason: str


class Attacked(Protocol):
    """An attack on one concept, as `attacks.result.AttackResult` has it."""

    attack: str
    concept: str
    status: Literal["withstood", "broken", "not shown"]

    @property
    def sanitized(self) -> Measured: ...
    @property
    def base(self) -> Measured | None: ...
    @property
    def weak(self) -> bool: ...
    @property
    def decides(self) -> bool: ...


class Outcome(BaseModel):
    """`status` says in words what `passed` says: true, false, or null where it was not shown. Reports of
    earlier versions have `passed` alone.
    """

    passed: bool | None
    status: Status

    @model_validator(mode="before")
    @classmethod
    def fill(cls, data: Any) -> Any:
        """Either of the two from the other."""
        if not isinstance(data, dict):
            return data
        if "status" not in data:
            words: dict[Any, Status] = {True: "passed", False: "failed"}
            return {**data, "status": words.get(data.get("passed"), "not shown")}
        return {"passed": PASSED.get(data["status"]), **data}


class Check(Outcome):
    """One threshold, and what was measured: the value of `n` pictures, and the interval that decides.

    cause: why it is so. reached, missed: the interval lies on one side of the threshold; few_pictures: the
    threshold lies in it; base_rate: the base model does not show the concept either; not_judged: there is no
    number; weak_attack: the attack mostly fails on the base model, too. attack: of `asr`, the attack. reason:
    the same in a sentence; to_try: what may help, the likeliest first.
    """

    metric: str
    concept: str | None = None
    attack: str | None = None
    value: float | None
    n: int | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    threshold: float
    bound: Literal["at least", "at most"] = "at least"
    cause: Cause | None = None
    reason: str = ""
    to_try: list[str] = []


class AttackOutcome(BaseModel):
    """An attack on a concept, and what came of it; `decides`: whether the verdict rests on it; `made`: its
    name, version and budget.
    """

    attack: str
    concept: str
    decides: bool
    status: Literal["withstood", "broken", "not shown"]
    asr: float
    n: int
    ci_low: float
    ci_high: float
    made: dict[str, Any]


class Verdict(Outcome):
    """Failed where a check failed; not shown where none failed but one was not shown (or none was asked for);
    else passed.

    delivery: what was delivered on this verdict: everything; everything, but marked as not passed; or no
    weights. advice: for each check that did not pass, its reason and what may help; of a delivery that is
    marked or withheld, what that means. artifact_sha256: of the delta that was judged; null where that was
    the base model itself.
    """

    checks: list[Check] = []
    delivery: Delivery | None = None
    advice: list[str] = []
    attacks: list[AttackOutcome] = []
    artifact_sha256: str | None = None
