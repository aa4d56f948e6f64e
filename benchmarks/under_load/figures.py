"""Figures with their spread, and the bars that they must hold."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Bar:
    """A figure beside its bar: at least `least`, or at most `most`; `value` None: it could not be
    measured, and `why` says so.
    """

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None
    least: float | None = None
    most: float | None = None
    why: str = ""

    @property
    def missed(self) -> bool:
        if self.value is None:
            return False
        return (self.least is not None and self.value < self.least) or (
            self.most is not None and self.value > self.most
        )

    @property
    def verdict(self) -> str:
        return "not measured" if self.value is None else "missed" if self.missed else "held"

    def told(self) -> str:
        """One line for people."""
        if self.value is None:
            return f"{self.verdict:12}  {self.name}: {self.why}"
        spread = "" if self.low is None else f" ({self.low:.2f} to {self.high:.2f})"
        bar = f"at least {self.least:g}" if self.least is not None else f"at most {self.most:g}"
        return f"{self.verdict:12}  {self.name}: {self.value:.2f}{spread}, {bar}"

    def row(self) -> dict[str, Any]:
        return {k: v for k, v in asdict(self).items() if v not in (None, "")} | {"verdict": self.verdict}


def side_by_side(
    name: str,
    ours: Sequence[float],
    theirs: Sequence[float],
    *,
    least: float | None = None,
    most: float | None = None,
) -> Bar:
    """The median of the rounds' ratios, ours to theirs, and the least and greatest of them: each round
    measured both, one after the other.
    """
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return Bar(name, statistics.median(ratios), min(ratios), max(ratios), least, most)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that this share of all does not exceed."""
    ranked = sorted(values)
    return ranked[max(0, math.ceil(share * len(ranked)) - 1)]


def latencies(seconds: Sequence[float]) -> dict[str, float]:
    """Count, median and 99th percentile, in milliseconds."""
    return {
        "requests": len(seconds),
        "p50_ms": round(1000 * percentile(seconds, 0.5), 2),
        "p99_ms": round(1000 * percentile(seconds, 0.99), 2),
    }
