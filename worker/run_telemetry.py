"""Where a run's time goes: seconds a step for the metrics; phases, and steps at most once a second, for the
traces.
"""

import time
from collections.abc import Mapping
from typing import Any

from opentelemetry import trace
from opentelemetry.trace import INVALID_SPAN, Span

from expunge.store.tracing import tracer
from expunge.worker import metrics

SECOND = 1_000_000_000  # ns


class Pace:
    """Hears every report of a run."""

    def __init__(self) -> None:
        self.phase, self.step = "", 0
        self.at = self.shown = time.time_ns()
        self.span: Span = INVALID_SPAN

    def __call__(self, report: Mapping[str, Any]) -> None:
        now, phase, step = time.time_ns(), str(report.get("phase")), int(report.get("step") or 0)
        if phase != self.phase:
            self.span.end()
            self.span = tracer.start_span(f"phase {phase}", start_time=now)
            self.phase, self.shown = phase, now
        elif step > self.step:
            metrics.step_seconds.labels(phase).observe(max(0, now - self.at) / SECOND / (step - self.step))
            if now - self.shown >= SECOND or step == report.get("total"):
                self.show(report, step, now)
        self.step, self.at = step, now

    def show(self, report: Mapping[str, Any], step: int, now: int) -> None:
        """A span for the steps since the last one shown."""
        self.shown = now
        metrics.note_gpu_memory()
        if self.span.is_recording():
            numbers = {
                key: value for key in ("total", "loss") if isinstance(value := report.get(key), int | float)
            }
            inside = trace.set_span_in_context(self.span)
            tracer.start_span(
                "step", context=inside, start_time=self.at, attributes={"step": step, **numbers}
            ).end(now)

    def end(self) -> None:
        self.span.end()
