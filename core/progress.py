"""How a long run reports how far it is."""

import sys
import time
from collections.abc import Callable
from typing import TypedDict


class Progress(TypedDict, total=False):
    """One report.

    phase: load, learn, encode, trajectories, search, erase, inspect, evaluate, attack or deliver; eta_s:
    seconds until the phase ends.
    """

    phase: str
    step: int
    total: int
    loss: float
    target: str | None
    eta_s: float | None
    message: str


Callback = Callable[[Progress], None]
"""Called between steps. What it raises (a cancel, a lost lease) ends the run and reaches the caller."""


def ignore(progress: Progress) -> None:
    """The callback of a caller that does not look."""


def show(progress: Progress) -> None:
    """The callback of a person: in a terminal or a notebook one line, written over; elsewhere nothing."""
    if not (sys.stderr.isatty() or "ipykernel" in sys.modules):
        return
    step, total = progress.get("step", 0), progress.get("total", 0)
    facts = [f"{progress.get('phase', '')} {step}/{total}"]
    if detail := progress.get("message") or progress.get("target"):
        facts.append(detail)
    if (loss := progress.get("loss")) is not None:
        facts.append(f"loss {loss:.4f}")
    if eta := progress.get("eta_s"):
        facts.append(f"{eta:.0f} s left")
    end = "\n" if total and step >= total else ""
    sys.stderr.write("\r" + "  ".join(facts)[:79].ljust(79) + end)
    sys.stderr.flush()


class Clock:
    """Estimates the seconds that a phase still takes, from its mean pace since step `start`.

    total: its steps, which may become more on the way.
    """

    def __init__(self, total: int, start: int = 0) -> None:
        self.total, self.start, self.begun = total, start, time.monotonic()

    def eta(self, step: float) -> float | None:
        """Seconds left at `step`; None before the first step is done."""
        done = step - self.start
        if done <= 0:
            return None
        pace = (time.monotonic() - self.begun) / done
        return round(pace * (self.total - step), 1)
