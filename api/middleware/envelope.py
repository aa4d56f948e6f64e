"""Around every request: its id, safe headers, one log line, counters. Every exception becomes a problem."""

import re
import time
import uuid

import structlog
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from expunge.api import root_path
from expunge.api.exceptions import to_problem
from expunge.api.metrics import UNMATCHED, Metrics, method_label
from expunge.api.problems import problem_response

log = structlog.get_logger("api")
REQUEST_ID = re.compile(r"^[A-Za-z0-9._-]{8,64}$")
SAFE_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none';"
        " base-uri 'none'; form-action 'none'"
    ),
    "Cache-Control": "private, no-store",
}
RAW_SAFE_HEADERS = [(name.lower().encode(), value.encode()) for name, value in SAFE_HEADERS.items()]
CLIENT_CLOSED = 499  # as nginx logs a client that went away before the answer began


def route_template(scope: Scope) -> str:
    """The route's template, such as /jobs/{job_id}: ids would split log queries and metrics."""
    return str(getattr(scope.get("route"), "path_format", UNMATCHED))


def prefix_location(scope: Scope, name: bytes, value: bytes) -> tuple[bytes, bytes]:
    """A response header; a Location of ours gets the prefix that the API is served under."""
    if name == b"location" and value.startswith(b"/"):
        return name, scope["root_path"].encode() + value
    return name, value


class Envelope:
    """ASGI middleware, outside of all others but SendFile."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        # The request's id, and HEAD as GET: its body is dropped below, so every GET route answers HEAD too.
        given_id = Headers(scope=scope).get("x-request-id", "")
        request_id = given_id if REQUEST_ID.match(given_id) else uuid.uuid4().hex
        method = scope["method"]
        state = {**scope.get("state", {}), "request_id": request_id, "head": method == "HEAD"}
        scope = {**scope, "state": state, "method": "GET" if method == "HEAD" else method}
        root_path.normalize(scope)
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        started_at, status = time.monotonic(), 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                own = [
                    prefix_location(scope, name, value)
                    for name, value in message["headers"]
                    if name != b"x-request-id"
                ]
                names = {name for name, _ in own}
                safe = [pair for pair in RAW_SAFE_HEADERS if pair[0] not in names]
                rate_limit = scope["state"].get("ratelimit", ())
                message["headers"] = [*own, (b"x-request-id", request_id.encode()), *safe, *rate_limit]
            elif method == "HEAD":
                message = {**message, "body": b""}
            await send(message)

        try:
            await self.app(scope, receive, send_with_headers)
        except Exception as error:
            if status:  # the head is sent: only closing the connection can tell that the body is incomplete
                log.error("response_aborted", error=type(error).__name__)
                raise
            response = problem_response(
                to_problem(error), instance=scope["path"], request_id=request_id, root=scope["root_path"]
            )
            await response(scope, receive, send_with_headers)
        finally:
            seconds = time.monotonic() - started_at
            route, status = route_template(scope), status or CLIENT_CLOSED
            self.metrics.observe(method, route, status, seconds)
            log.info(
                "request",
                method=method_label(method),
                route=route,
                status=status,
                ms=round(1000 * seconds, 1),
                tenant=scope["state"].get("tenant"),
            )
