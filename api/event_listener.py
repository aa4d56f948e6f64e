"""Who waits for a job's next event: one database connection listens for all of them.

Streams hold no connection while they wait. Where the listener is down they fall back to looking every few
seconds.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

import psycopg
import structlog

log = structlog.get_logger("api")
CHANNEL = "expunge_events"
POLL = 2.0  # seconds between looks without the listener
SAFETY = 15.0  # seconds between looks with it: a notification may be lost in a reconnect


class Hub:
    """Wakes streams by job id."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.waiting: dict[str, set[asyncio.Event]] = {}
        self.listening = False

    @property
    def patience(self) -> float:
        """Seconds to wait before looking without having been woken."""
        return SAFETY if self.listening else POLL

    @contextlib.contextmanager
    def subscribe(self, job_id: str) -> Iterator[asyncio.Event]:
        bell = asyncio.Event()
        self.waiting.setdefault(job_id, set()).add(bell)
        try:
            yield bell
        finally:
            self.waiting[job_id].discard(bell)
            if not self.waiting[job_id]:
                del self.waiting[job_id]

    def wake(self, job_id: str) -> None:
        for bell in self.waiting.get(job_id, ()):
            bell.set()

    def wake_all(self) -> None:
        for job_id in list(self.waiting):
            self.wake(job_id)

    async def listen(self) -> None:
        """Hand on notifications for ever; reconnects, and wakes everyone after a gap."""
        while True:
            try:
                async for job_id in self.notifications():
                    self.wake(job_id)
            except (psycopg.Error, OSError) as error:
                log.warning("listener_lost", error=type(error).__name__)
            self.listening = False
            self.wake_all()
            await asyncio.sleep(1)

    async def notifications(self) -> AsyncIterator[str]:
        async with await psycopg.AsyncConnection.connect(
            self.dsn, autocommit=True, connect_timeout=5, application_name="expunge-listener"
        ) as connection:
            await connection.execute(f"LISTEN {CHANNEL}")
            self.listening = True
            self.wake_all()
            async for notice in connection.notifies():
                yield notice.payload


@contextlib.asynccontextmanager
async def running(hub: Hub) -> AsyncIterator[None]:
    """Listen while the app lives."""
    task = asyncio.create_task(hub.listen())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        hub.wake_all()
