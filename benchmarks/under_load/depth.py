"""What a long queue costs: listing, claiming, dispatching and accepting beside 100, 1,000 and 10,000 queued
jobs, each in a database of its own.
"""

import statistics
import time
import uuid
from collections.abc import Callable
from datetime import timedelta

import psycopg
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.orm import Session

from expunge.store import (
    artifacts,
    db,
    jobs,
    keys,
    migrate,
    queue_announcements,
    queue_claims,
    queue_quotas,
    queue_recovery,
)
from expunge.store.settings import Settings

DEPTHS = (100, 1_000, 10_000)
PAGE = 50
ROOMY = Settings(max_active_jobs=1_000_000)
FILL = """
insert into jobs (id, tenant_id, kind, spec, labels, created_at, available_at)
select gen_random_uuid(), :tenant, 'erase',
       '{"model": "emoji", "concepts": [{"name": "church"}], "method": {"name": "esd"}}',
       '{"team": "safety"}',
       now() - n * interval '1 second', now() - n * interval '1 second'
from generate_series(1, :n) n
"""


class Queue:
    """A database with so many queued jobs of one tenant."""

    def __init__(self, server: str, depth: int) -> None:
        name = f"depth_{depth}"
        with psycopg.connect(db.psycopg_url(server), autocommit=True) as connection:
            connection.execute(f"create database {name}")
        self.url = make_url(server).set(database=name).render_as_string(hide_password=False)
        migrate.upgrade(self.url)
        with db.transaction(self.url) as session:
            self.tenant = keys.ensure_tenant(session, "default").id
            session.execute(text(FILL), {"tenant": self.tenant, "n": depth})
        with psycopg.connect(db.psycopg_url(self.url), autocommit=True) as connection:
            connection.execute("vacuum analyze")

    def listing(self, session: Session, _: int) -> None:
        """A page of GET /jobs."""
        rows = jobs.list_jobs(session, self.tenant, limit=PAGE + 1)
        artifacts.list_of_jobs(session, self.tenant, [row.id for row in rows[:PAGE]])

    def listing_queued(self, session: Session, _: int) -> None:
        """A page of GET /jobs?status=queued."""
        jobs.list_jobs(session, self.tenant, status="queued", limit=PAGE + 1)

    def claiming(self, session: Session, _: int) -> None:
        """A worker's claim of the fairest."""
        if queue_claims.claim_next(session, owner="load", lease=timedelta(minutes=1)) is None:
            raise RuntimeError("a queued job could not be claimed")

    def dispatching(self, session: Session, _: int) -> None:
        """A dispatcher's turn: choose what to announce, and mark it."""
        if not queue_announcements.next_to_announce(
            session, grace=timedelta(seconds=2), again=timedelta(seconds=30)
        ):
            raise RuntimeError("there was nothing to announce")

    def reaping(self, session: Session, _: int) -> None:
        """A reaper's turn that finds nothing."""
        queue_recovery.reap(session, backoff=2)

    def accepting(self, session: Session, _: int) -> None:
        """The quota's look and a new job."""
        queue_quotas.count_job(session, self.tenant, ROOMY)
        jobs.create_job(session, self.tenant, "erase", {"model": "emoji"}, request_id=uuid.uuid4().hex)


BARRED = ("listing", "listing_queued", "claiming", "dispatching")
ACTS = (*BARRED, "reaping", "accepting")


def seconds(queue_: Queue, act: Callable[[Session, int], None], times: int) -> float:
    """The median time of an act, each in a transaction that is rolled back, so that the queue stays as long
    as it is.
    """
    took = []
    with Session(db.engine(queue_.url)) as session:
        for n in range(times):
            session.connection()
            begun = time.perf_counter()
            act(session, n)
            took.append(time.perf_counter() - begun)
            session.rollback()
            session.expunge_all()
    return statistics.median(took)


def measure(server: str, rounds: int, times: int) -> dict[str, dict[int, list[float]]]:
    """Act to depth to its median of each round, in seconds; every round goes through all depths."""
    queues = {depth: Queue(server, depth) for depth in DEPTHS}
    found: dict[str, dict[int, list[float]]] = {act: {depth: [] for depth in DEPTHS} for act in ACTS}
    for queue_ in queues.values():
        for act in ACTS:
            seconds(queue_, getattr(queue_, act), 3)
    for _ in range(rounds):
        for act in ACTS:
            for depth, queue_ in queues.items():
                found[act][depth].append(seconds(queue_, getattr(queue_, act), times))
    for queue_ in queues.values():
        db.engine(queue_.url).dispose()
    return found
