"""Wake-ups for requests that wait for a job's next event: one database connection listens for all of them.

Waiting requests hold no connection of their own. While the listener is down they poll instead.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

import psycopg
import structlog

log = structlog.get_logger("api")
CHANNEL = "expunge_events"
POLL_WITHOUT_LISTENER = 2.0  # seconds
POLL_WITH_LISTENER = 15.0  # seconds: a notification may be lost during a reconnect


class EventListener:
    """Listens for notifications (LISTEN/NOTIFY) and wakes whoever waits for that job."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.waiting: dict[str, set[asyncio.Event]] = {}
        self.connected = False

    @property
    def poll_interval(self) -> float:
        """Seconds after which to look at the job even without a wake-up."""
        return POLL_WITH_LISTENER if self.connected else POLL_WITHOUT_LISTENER

    @contextlib.contextmanager
    def subscribe(self, job_id: str) -> Iterator[asyncio.Event]:
        """An asyncio.Event that is set at each event of the job."""
        wake_up = asyncio.Event()
        self.waiting.setdefault(job_id, set()).add(wake_up)
        try:
            yield wake_up
        finally:
            self.waiting[job_id].discard(wake_up)
            if not self.waiting[job_id]:
                del self.waiting[job_id]

    def wake(self, job_id: str) -> None:
        for wake_up in self.waiting.get(job_id, ()):
            wake_up.set()

    def wake_all(self) -> None:
        for job_id in list(self.waiting):
            self.wake(job_id)

    async def listen(self) -> None:
        """Pass on notifications until cancelled; reconnects, and wakes everyone after a gap."""
        while True:
            try:
                async for job_id in self.notifications():
                    self.wake(job_id)
            except (psycopg.Error, OSError) as error:
                log.warning("event_listener_disconnected", error=type(error).__name__)
            self.connected = False
            self.wake_all()
            await asyncio.sleep(1)

    async def notifications(self) -> AsyncIterator[str]:
        """The job ids that PostgreSQL notifies of, over one connection."""
        async with await psycopg.AsyncConnection.connect(
            self.dsn, autocommit=True, connect_timeout=5, application_name="expunge-listener"
        ) as connection:
            await connection.execute(f"LISTEN {CHANNEL}")
            self.connected = True
            self.wake_all()
            async for notice in connection.notifies():
                yield notice.payload


@contextlib.asynccontextmanager
async def running(listener: EventListener) -> AsyncIterator[None]:
    """Listen while the app runs."""
    task = asyncio.create_task(listener.listen())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        listener.wake_all()
