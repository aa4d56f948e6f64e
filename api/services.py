"""What the routes share: settings, database, artifact store, rate limits, caches, queue and metrics."""

import uuid
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property, partial

from sqlalchemy import text
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from expunge.api.checksums import ChecksumCache
from expunge.api.event_listener import EventListener
from expunge.api.key_cache import KeyCache
from expunge.api.metrics import DatabaseCounts, Metrics
from expunge.api.middleware.rate_limit import RateLimiter
from expunge.api.single_flight import SingleFlight
from expunge.api.stream_limits import StreamLimits
from expunge.api.task_queue import TaskQueue
from expunge.api.vetting_thread import VettingThread
from expunge.store import artifacts, db, deployment, jobs, keys, queue_pauses, workers
from expunge.store.blobs import Blobs
from expunge.store.settings import Settings


@dataclass
class Services:
    """One per app; nothing in it connects before it is used."""

    settings: Settings
    event_listener: EventListener
    task_queue: TaskQueue
    metrics: Metrics
    rate_limiter: RateLimiter
    checksums: ChecksumCache = field(default_factory=ChecksumCache)
    key_cache: KeyCache = field(default_factory=KeyCache)

    def __post_init__(self) -> None:
        self.vetting_thread = VettingThread()
        self.stream_limits = StreamLimits(self.settings.max_streams)
        self.live_identifiers = SingleFlight(partial(run_in_threadpool, self.read_live_identifiers), 1.0)
        self.readiness = SingleFlight(self.check_readiness, 1.0)

    @cached_property
    def blobs(self) -> Blobs:
        """The artifact store, checked to be this database's.

        Raises: ForeignStore where it is not.
        """
        return deployment.open_store_cached(self.settings)

    def transaction(self) -> AbstractContextManager[Session]:
        """A session that commits when its block ends."""
        return db.transaction(self.settings.database_url.get_secret_value())

    def reading(self) -> AbstractContextManager[Session]:
        """A session for one SELECT."""
        return db.reading(self.settings.database_url.get_secret_value())

    def read_live_identifiers(self) -> frozenset[str]:
        """The identifiers (hashes and ids) of all live API keys."""
        with self.reading() as session:
            return keys.live_identifiers(session)

    async def check_readiness(self) -> dict[str, str]:
        """The state of each part the service needs.

        The database must answer. Without Redis the service is only degraded; with a paused queue, or without
        a ready worker, it still accepts jobs.
        """
        queue, ready = await run_in_threadpool(self.queue_state)
        return {"database": "ok", "redis": await self.rate_limiter.ping(), "queue": queue, "workers": ready}

    def queue_state(self) -> tuple[str, str]:
        """(state of the queue, state of the workers)."""
        with self.transaction() as session:
            session.execute(text("select 1 from jobs limit 1"))
            queue = "running" if queue_pauses.get_pause(session, None) is None else "paused"
            return queue, "ready" if workers.ready_models(session) else "none ready"

    def announce(self, job_id: uuid.UUID) -> None:
        """Wake a worker; call it after the commit."""
        if not self.task_queue.announce(job_id):
            self.metrics.broker_failures.inc()

    def count_rows(self) -> DatabaseCounts:
        """The numbers that /metrics reads from the database."""
        with self.transaction() as session:
            return DatabaseCounts(
                jobs=jobs.count_by_status(session),
                oldest=jobs.queue_age(session),
                corrupt=artifacts.count_corrupt(session),
                paused=queue_pauses.count_pauses(session),
                workers=workers.count_by_state(session),
                blocked=len(workers.blocked_models(session)),
            )


def build(settings: Settings) -> Services:
    """The services of one app; connects to nothing."""
    dsn = db.psycopg_url(settings.database_url.get_secret_value())
    metrics = Metrics()
    services = Services(
        settings=settings,
        event_listener=EventListener(dsn),
        task_queue=TaskQueue(settings.broker_url),
        metrics=metrics,
        rate_limiter=RateLimiter(settings, metrics),
    )
    services.metrics.register_database(services.count_rows)
    return services
