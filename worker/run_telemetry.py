"""Where a run's time goes: seconds per step for the metrics; phases, and steps at most once a second, for the
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


class RunTelemetry:
    """Measures a run by its progress reports; times are in ns of the wall clock, as spans have them."""

    def __init__(self) -> None:
        self.phase, self.step = "", 0
        self.reported_at = self.traced_at = time.time_ns()
        self.span: Span = INVALID_SPAN

    def __call__(self, report: Mapping[str, Any]) -> None:
        phase, step = str(report.get("phase")), int(report.get("step") or 0)
        now = time.time_ns()
        if phase != self.phase:
            self.span.end()
            self.span = tracer.start_span(f"phase {phase}", start_time=now)
            self.phase, self.traced_at = phase, now
        elif step > self.step:
            seconds = max(0, now - self.reported_at) / SECOND
            metrics.step_seconds.labels(phase).observe(seconds / (step - self.step))
            if now - self.traced_at >= SECOND or step == report.get("total"):
                self.trace_step(report, step, now)
        self.step, self.reported_at = step, now

    def trace_step(self, report: Mapping[str, Any], step: int, now: int) -> None:
        """Add a span for the steps since the last one traced."""
        self.traced_at = now
        metrics.note_gpu_memory()
        if not self.span.is_recording():
            return
        attributes: dict[str, int | float] = {"step": step}
        for key in ("total", "loss"):
            if isinstance(value := report.get(key), int | float):
                attributes[key] = value
        inside = trace.set_span_in_context(self.span)
        tracer.start_span("step", context=inside, start_time=self.reported_at, attributes=attributes).end(now)

    def end(self) -> None:
        self.span.end()
