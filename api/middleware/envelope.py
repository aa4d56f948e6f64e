"""Around every request: an id, safe headers, one log line, counters; and no exception leaves as anything but
a problem.
"""

import re
import time
import uuid
from typing import Any

import structlog
from obstore.exceptions import BaseError as BlobError
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, TimeoutError as PoolTimeout
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from expunge.api import root_path
from expunge.api.metrics import UNMATCHED, Metrics, known_method
from expunge.api.problems import Problem, answer
from expunge.store.errors import (
    CorruptBlob,
    ForeignStore,
    KeyInFlight,
    KeyReused,
    NotFinished,
    NotFound,
    QuotaExceeded,
    StoreError,
    WrongState,
)

log = structlog.get_logger("api")
REQUEST_ID = re.compile(r"^[A-Za-z0-9._-]{8,64}$")
SAFE = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none';"
        " base-uri 'none'; form-action 'none'"
    ),
    "Cache-Control": "private, no-store",
}
RAW = [(name.lower().encode(), value.encode()) for name, value in SAFE.items()]


def unavailable(error: Exception) -> Problem | None:
    """A 503 when the database is away or overloaded, or the artifact store away, else None."""
    if isinstance(error, ForeignStore):
        log.error("foreign_store", error=str(error))
        return Problem(
            "unavailable",
            "The artifact store is not this service's; nothing was changed.",
            headers={"Retry-After": "60"},
        )
    if isinstance(error, BlobError):
        return Problem(
            "unavailable",
            "The artifact store does not answer; nothing was changed.",
            headers={"Retry-After": "5"},
        )
    lost = isinstance(error, DBAPIError) and error.connection_invalidated
    if lost or isinstance(error, (OperationalError, InterfaceError, PoolTimeout)):
        return Problem(
            "unavailable", "The database does not answer; nothing was changed.", headers={"Retry-After": "5"}
        )
    return None


def of_store(error: StoreError) -> Problem | None:
    """What the store refused, in HTTP's words."""
    match error:
        case NotFound():
            return Problem(
                "not_found",
                "There is no such resource: check the id; those of other tenants are unknown to you.",
            )
        case KeyReused():
            return Problem("idempotency_mismatch")
        case KeyInFlight():
            return Problem("idempotency_in_flight", headers={"Retry-After": "1"})
        case NotFinished() | WrongState():
            return Problem("wrong_state", f"{error}.")
        case QuotaExceeded():
            return Problem("quota_exceeded", f"{error}.", headers=error.headers)
        case CorruptBlob():
            return Problem("artifact_corrupt")
    return None


def as_problem(error: Exception) -> Problem:
    """The problem that an exception stands for; what nobody foresaw is a 500, whose cause only the log
    tells.
    """
    if isinstance(error, Problem):
        return error
    found = unavailable(error) or (of_store(error) if isinstance(error, StoreError) else None)
    if found is None:
        log.exception("request_failed", error=type(error).__name__)
        return Problem(
            "internal_error",
            "The server failed; the operator finds the cause in the log under this request_id.",
        )
    if found.kind.status >= 500:
        log.warning(found.kind.code, error=type(error).__name__)
    return found


def route_of(scope: Scope) -> str:
    """The route's template, so that ids neither reach the log's group-by nor blow up the metrics."""
    return str(getattr(scope.get("route"), "path_format", UNMATCHED))


def placed(scope: Scope, name: bytes, value: bytes) -> tuple[bytes, bytes]:
    """A header as it is below the prefix."""
    return name, (
        scope["root_path"].encode() + value if name == b"location" and value.startswith(b"/") else value
    )


class Envelope:
    """ASGI middleware, the outermost one."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if REQUEST_ID.match(given) else uuid.uuid4().hex
        method = scope["method"]
        # From here on HEAD is GET whose body is thrown away: every route that knows the one knows the other.
        state = {**scope.get("state", {}), "request_id": request_id, "head": method == "HEAD"}
        scope = {**scope, "state": state, "method": "GET" if method == "HEAD" else method}
        root_path.settle(scope)
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        started, status = time.monotonic(), 0

        async def dress(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                given = [placed(scope, *pair) for pair in message["headers"] if pair[0] != b"x-request-id"]
                names = {name for name, _ in given}
                safe = (pair for pair in RAW if pair[0] not in names)
                message["headers"] = [
                    *given,
                    (b"x-request-id", request_id.encode()),
                    *safe,
                    *scope["state"].get("ratelimit", ()),
                ]
            elif method == "HEAD":
                message = {**message, "body": b""}
            await send(message)

        try:
            await self.app(scope, receive, dress)
        except Exception as error:
            if status:  # the head is out: breaking off is the only way left to say that the body is not whole
                log.error("response_broken_off", error=type(error).__name__)
                raise
            await answer(
                as_problem(error), instance=scope["path"], request_id=request_id, root=scope["root_path"]
            )(scope, receive, dress)
        finally:
            seconds = time.monotonic() - started
            self.metrics.observe(method, route_of(scope), status or 499, seconds)
            facts: dict[str, Any] = {
                "method": known_method(method),
                "route": route_of(scope),
                "status": status or 499,
                "ms": round(1000 * seconds, 1),
            }
            log.info("request", **facts, tenant=scope["state"].get("tenant"))
