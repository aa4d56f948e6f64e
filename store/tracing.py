"""OpenTelemetry traces, from a request to a worker's step; off without OTEL_EXPORTER_OTLP_ENDPOINT.

A trace's context is kept with the job, not in the message, so that it also reaches a worker that takes the
job over.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import structlog
from opentelemetry import propagate, trace
from opentelemetry.trace import INVALID_SPAN, Span, SpanKind
from sqlalchemy import Engine, event
from sqlalchemy.engine import ExceptionContext

log = structlog.get_logger("store")
tracer = trace.get_tracer("expunge")


def is_enabled() -> bool:
    return any(
        os.environ.get(name) for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    )


def configure(service: str) -> bool:
    """Export spans from now on, where that is asked for; to be called once in a process."""
    if not is_enabled():
        return False
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        log.warning(
            "tracing_disabled", remedy="OTEL_EXPORTER_OTLP_ENDPOINT is set: pip install 'expunge[otel]'"
        )
        return False
    provider = TracerProvider(resource=Resource.create({"service.name": f"expunge-{service}"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    return True


def instrument(engine: Engine) -> None:
    """Make a span for each statement within a trace, without its parameters.

    (OpenTelemetry's own instrumentation ends before SQLAlchemy 2.1.)
    """
    if not is_enabled():
        return

    @event.listens_for(engine, "before_cursor_execute")
    def begin(_: Any, __: Any, statement: str, ___: Any, context: Any, ____: Any) -> None:
        inside = trace.get_current_span().is_recording()
        facts = {"db.system.name": "postgresql", "db.query.text": statement}
        name = statement.split(None, 1)[0].upper()
        context.span = (
            tracer.start_span(name, kind=SpanKind.CLIENT, attributes=facts) if inside else INVALID_SPAN
        )

    @event.listens_for(engine, "after_cursor_execute")
    def end(_: Any, __: Any, ___: str, ____: Any, context: Any, _____: Any) -> None:
        context.span.end()

    @event.listens_for(engine, "handle_error")
    def failed(error: ExceptionContext) -> None:
        getattr(error.execution_context, "span", INVALID_SPAN).end()


def flush() -> None:
    """Send the spans that wait, before a process ends."""
    provider = trace.get_tracer_provider()
    if hasattr(provider, "force_flush"):
        provider.force_flush(2000)


def current_traceparent() -> str | None:
    """W3C traceparent of the current span, to be kept with a job."""
    carrier = dict[str, str]()
    propagate.inject(carrier)
    return carrier.get("traceparent")


def trace_ids() -> dict[str, str]:
    """The current trace's id, for a log line."""
    context = trace.get_current_span().get_span_context()
    return {"trace_id": trace.format_trace_id(context.trace_id)} if context.is_valid else {}


@contextmanager
def continue_trace(name: str, parent: str | None, **attributes: str | int) -> Iterator[Span]:
    """A span within the trace of the request that created a job."""
    context = propagate.extract({"traceparent": parent} if parent else {})
    with tracer.start_as_current_span(name, context=context, attributes=attributes) as span:
        yield span
