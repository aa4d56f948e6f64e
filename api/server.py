"""uvicorn as the API runs under it: HTTP/1.1 with deadlines, so that a client that sends slowly, or nothing,
holds a connection for a bounded time only.

uvicorn itself has no time limit for a request's head or body. A proxy in front (docs/running.md) is good for
more: TLS, and slow readers.
"""

import asyncio
import resource
from collections.abc import Callable
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = (
    10.0  # from a connection's beginning, or a further request's first byte, to the end of its head
)
BODY_SECONDS, BODY_BYTES = 10.0, 10_240  # so many bytes of a body in each so many seconds
MOST_HALF = 256  # connections whose heads are not whole yet
# Beyond MOST_HALF the oldest has so long to end: many clients at once are not slow ones.
HURRY_SECONDS = 2.0
MOST = 2500  # connections; beyond that, requests are answered 503
GRACE = 5  # seconds that requests have to end in when the server stops
TIMEOUT = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class Patient(H11Protocol):
    """uvicorn's protocol over h11, one object for each connection.

    A deadline runs while the client owes the rest of a head or of a body.
    """

    half: dict["Patient", None] = {}  # noqa: RUF012  # connections whose head is not whole, the oldest first; of all in this process
    deadline: asyncio.TimerHandle | None = None
    owed = ""
    received = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        self.look()

    def data_received(self, data: bytes) -> None:
        self.received += len(data)
        super().data_received(data)
        self.look()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self.look()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.owe("")

    def look(self) -> None:
        """What the client owes after what has just happened; between two requests nothing, as uvicorn's own
        keep-alive runs then.
        """
        owed = ""
        if self.conn.their_state is h11.SEND_BODY:
            owed = "body"
        elif self.conn.their_state is h11.IDLE and (self.cycle is None or self.conn.trailing_data[0]):
            owed = "head"
        if self.transport.is_closing():
            owed = ""
        if owed != self.owed:
            self.owe(owed)

    def owe(self, what: str) -> None:
        """Start the clock for a head or a body, or stop it."""
        if self.deadline is not None:
            self.deadline.cancel()
            self.deadline = None
        self.owed, self.received = what, 0
        self.half.pop(self, None)
        if what == "head":
            if len(self.half) >= MOST_HALF:
                next(iter(self.half)).hurry()
            self.half[self] = None
            self.deadline = self.loop.call_later(HEAD_SECONDS, self.give_up)
        elif what == "body":
            self.deadline = self.loop.call_later(BODY_SECONDS, self.measure)

    def hurry(self) -> None:
        """The head is to end soon, as others wait for its place."""
        self.half.pop(self, None)
        if self.deadline is not None:
            self.deadline.cancel()
        self.deadline = self.loop.call_later(min(HURRY_SECONDS, HEAD_SECONDS), self.give_up)

    def measure(self) -> None:
        """A body goes on as long as enough of it comes, or as it is the service that does not read on."""
        if (
            self.received >= BODY_BYTES
            or self.flow.read_paused
            or self.conn.they_are_waiting_for_100_continue
        ):
            self.owe("body")
        else:
            self.give_up()

    def give_up(self) -> None:
        """Hang up; where no answer has begun, say why."""
        silent = self.owed == "body" and self.cycle.response_started
        self.owe("")
        if silent:
            self.transport.abort()
        else:
            self.transport.write(TIMEOUT)
            self.transport.close()


def config(app: str | Callable[..., Any], **more: Any) -> uvicorn.Config:
    """One way to serve for the image, for `expunge up` and for the tests.

    Raises the soft limit of open files to what that many connections take.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * MOST + 256
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard)
        )
    kept = {
        "http": Patient,
        "loop": "asyncio",
        "ws": "none",
        "access_log": False,
        "limit_concurrency": MOST,
        "timeout_graceful_shutdown": GRACE,
    }
    return uvicorn.Config(app, **{**kept, **more})
