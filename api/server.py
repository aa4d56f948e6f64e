"""uvicorn with deadlines, so that a client that sends slowly, or nothing, cannot hold a connection for long.

uvicorn itself has no time limit for a request's head or body. A proxy in front (docs/running.md) adds TLS,
and protects against slow readers.
"""

import asyncio
import resource
from collections.abc import Callable
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 10.0  # for a request's head, from the connection's start or from its own first byte
BODY_SECONDS, BODY_BYTES = 10.0, 10_240  # a body must bring this many bytes in each period of this length
MAX_INCOMPLETE_HEADS = 256  # connections whose heads are incomplete
# Above MAX_INCOMPLETE_HEADS, the time that the oldest one gets. It is not 0, as many clients that connect at
# once are not slow clients.
SHORTENED_HEAD_SECONDS = 2.0
MAX_CONNECTIONS = 2500  # above it, requests are answered 503
SHUTDOWN_SECONDS = 5  # that running requests get to finish when the server stops
TIMEOUT = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class DeadlineProtocol(H11Protocol):
    """uvicorn's protocol over h11, one object for each connection, with a deadline for heads and bodies."""

    # The process's connections with an incomplete head, the oldest first
    incomplete_heads: dict["DeadlineProtocol", None] = {}  # noqa: RUF012
    deadline: asyncio.TimerHandle | None = None
    awaited = ""  # what the client has to send: "head", "body" or nothing
    received = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        self.update_deadline()

    def data_received(self, data: bytes) -> None:
        self.received += len(data)
        super().data_received(data)
        self.update_deadline()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self.update_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.set_deadline("")

    def update_deadline(self) -> None:
        """Set the deadline for what the client has to send now.

        Between two requests that is nothing: uvicorn's own keep-alive timeout runs then.
        """
        awaited = ""
        if self.conn.their_state is h11.SEND_BODY:
            awaited = "body"
        elif self.conn.their_state is h11.IDLE and (self.cycle is None or self.conn.trailing_data[0]):
            awaited = "head"
        if self.transport.is_closing():
            awaited = ""
        if awaited != self.awaited:
            self.set_deadline(awaited)

    def set_deadline(self, awaited: str) -> None:
        """Start the deadline for a "head" or a "body"; with "", stop it."""
        if self.deadline is not None:
            self.deadline.cancel()
            self.deadline = None
        self.awaited, self.received = awaited, 0
        self.incomplete_heads.pop(self, None)
        if awaited == "head":
            if len(self.incomplete_heads) >= MAX_INCOMPLETE_HEADS:
                next(iter(self.incomplete_heads)).shorten_deadline()
            self.incomplete_heads[self] = None
            self.deadline = self.loop.call_later(HEAD_SECONDS, self.time_out)
        elif awaited == "body":
            self.deadline = self.loop.call_later(BODY_SECONDS, self.check_body)

    def shorten_deadline(self) -> None:
        """Give the head less time, as others wait for its place."""
        self.incomplete_heads.pop(self, None)
        if self.deadline is not None:
            self.deadline.cancel()
        self.deadline = self.loop.call_later(min(SHORTENED_HEAD_SECONDS, HEAD_SECONDS), self.time_out)

    def check_body(self) -> None:
        """Extend the body's deadline if enough of it came, or if the service itself is not reading it."""
        if (
            self.received >= BODY_BYTES
            or self.flow.read_paused
            or self.conn.they_are_waiting_for_100_continue
        ):
            self.set_deadline("body")
        else:
            self.time_out()

    def time_out(self) -> None:
        """Close the connection; if no answer has begun, answer 408 first."""
        answered = self.awaited == "body" and self.cycle.response_started
        self.set_deadline("")
        if answered:
            self.transport.abort()
        else:
            self.transport.write(TIMEOUT)
            self.transport.close()


def config(app: str | Callable[..., Any], **options: Any) -> uvicorn.Config:
    """uvicorn's configuration for the image, for `expunge up` and for the tests; `options` override it.

    Also raises the process's soft limit of open files to what MAX_CONNECTIONS needs.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 2 * MAX_CONNECTIONS + 256
    if soft != resource.RLIM_INFINITY and soft < needed:
        allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    defaults = {
        "http": DeadlineProtocol,
        "loop": "asyncio",
        "ws": "none",
        "access_log": False,
        "limit_concurrency": MAX_CONNECTIONS,
        "timeout_graceful_shutdown": SHUTDOWN_SECONDS,
    }
    return uvicorn.Config(app, **{**defaults, **options})
