"""What the routes share: settings, database, artifact store, the listener, the bell and the counters."""

import uuid
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property, partial

from sqlalchemy import text
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from expunge.api.checksums import Checked
from expunge.api.event_listener import Hub
from expunge.api.key_cache import Known
from expunge.api.metrics import Counted, Metrics
from expunge.api.middleware.rate_limit import Limiter
from expunge.api.single_flight import Shared
from expunge.api.stream_limits import Seats
from expunge.api.task_queue import Bell
from expunge.api.vet_image import Decoder
from expunge.store import artifacts, db, deployment, jobs, keys, queue_pauses, workers
from expunge.store.blobs import Blobs
from expunge.store.settings import Settings


@dataclass
class Services:
    """One per app; nothing in it connects before it is used."""

    settings: Settings
    hub: Hub
    bell: Bell
    metrics: Metrics
    limiter: Limiter
    checked: Checked = field(default_factory=Checked)
    known: Known = field(default_factory=Known)

    def __post_init__(self) -> None:
        self.decoder = Decoder()
        self.seats = Seats(self.settings.max_streams)
        self.living = Shared(partial(run_in_threadpool, self.marks), 1.0)
        self.ready = Shared(self.readiness, 1.0)

    @cached_property
    def blobs(self) -> Blobs:
        """Known to be this database's. ForeignStore."""
        return deployment.open_store_cached(self.settings)

    def transaction(self) -> AbstractContextManager[Session]:
        """A session that commits at its end."""
        return db.transaction(self.settings.database_url.get_secret_value())

    def marks(self) -> frozenset[str]:
        """What tells a live key from any other text of its form."""
        with self.reading() as session:
            return keys.live_identifiers(session)

    async def readiness(self) -> dict[str, str]:
        """How the parts are: the database must answer; a silent Redis only degrades; a paused queue, and one
        without a worker that is ready, take jobs all the same."""
        queue, ready = await run_in_threadpool(self.queue_state)
        return {"database": "ok", "redis": await self.limiter.ping(), "queue": queue, "workers": ready}

    def queue_state(self) -> tuple[str, str]:
        with self.transaction() as session:
            session.execute(text("select 1 from jobs limit 1"))
            queue = "running" if queue_pauses.get_pause(session, None) is None else "paused"
            return queue, "ready" if workers.ready_models(session) else "none ready"

    def reading(self) -> AbstractContextManager[Session]:
        """A session for one SELECT."""
        return db.reading(self.settings.database_url.get_secret_value())

    def ring(self, job_id: uuid.UUID) -> None:
        """Wake a worker; to be called after the commit."""
        if not self.bell.ring(job_id):
            self.metrics.unheard.inc()

    def count(self) -> Counted:
        """What the database says at this moment."""
        with self.transaction() as session:
            return Counted(
                jobs=jobs.count_by_status(session),
                oldest=jobs.queue_age(session),
                corrupt=artifacts.count_corrupt(session),
                paused=queue_pauses.count_pauses(session),
                workers=workers.count_by_state(session),
                blocked=len(workers.blocked_models(session)),
            )


def build(settings: Settings) -> Services:
    dsn = db.psycopg_url(settings.database_url.get_secret_value())
    metrics = Metrics()
    services = Services(settings, Hub(dsn), Bell(settings.broker_url), metrics, Limiter(settings, metrics))
    services.metrics.watch(services.count)
    return services
