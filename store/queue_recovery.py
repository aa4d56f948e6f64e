"""The loops' view of the queue: what to announce, and what to take from the dead.

Rows another loop holds are skipped.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, func, or_, select, text, update
from sqlalchemy.orm import Session

from expunge.store import queue_claims, workers
from expunge.store.attempts import WAITING, drop_checkpoints, finish
from expunge.store.jobs import LITERAL, change
from expunge.store.models import Checkpoint, Job
from expunge.store.statuses import JobStatus

# The bell: this Celery task on this queue, with a job id and nothing else
TASK, QUEUE = ("expunge.run", "expunge")
BATCH = 100
MAX_BACKOFF = 300.0  # seconds
QUEUED, RUNNING = LITERAL[JobStatus.QUEUED], LITERAL[JobStatus.RUNNING]
HUNG = timedelta(seconds=60)  # past its deadline with a live lease: the worker had its chance to stop

DEADLINE = {"code": "deadline_exceeded", "message": "the job ran past its run_timeout_s", "retryable": True}
LOST = {"code": "worker_lost", "message": "every worker that took this job was lost", "retryable": True}

# The first job of each tenant, then the second of each, and so on. Two index ranges a tenant, however many
# jobs it has: ordered as ix_jobs_unannounced is (dispatched_at too where it is null), no other index will do,
# whatever PostgreSQL knows of the rows.
WANTED = (
    "from jobs where tenant_id = tenants.id and status = 'queued' and available_at <= now() and (:all or"
    f" {queue_claims.MODEL} = any(:models))"
)
SEEN = "(attempt > 0 or started_at is not null or available_at <= now() - cast(:grace as interval))"
CANDIDATES = text(f"""
select each.id
from unnest(cast(:tenants as uuid[])) with ordinality as tenants (id, place)
cross join lateral (
    select id, row_number() over (order by available_at, id) as turn
    from (
        (select id, available_at {WANTED} and dispatched_at is null and {SEEN}
            order by dispatched_at, available_at limit :limit)
        union all
        (select id, available_at {WANTED} and dispatched_at <= now() - cast(:again as interval)
            order by dispatched_at, available_at limit :limit)
    ) as wanted
) as each
order by turn, place
limit :limit
""")


@dataclass
class Reaped:
    """What one round of the reaper did."""

    requeued: list[uuid.UUID] = field(default_factory=list)
    ended: list[tuple[uuid.UUID, str]] = field(default_factory=list)
    facts: dict[uuid.UUID, dict[str, Any]] = field(default_factory=dict)  # what a log line says of each
    expiries: int = 0  # leases that ran out

    @property
    def full(self) -> bool:
        """Whether more may be left than one round takes."""
        return len(self.requeued) + len(self.ended) >= BATCH

    def note(self, job: Job, now: datetime) -> None:
        self.facts[job.id] = job.facts()
        self.expiries += job.lease_expires_at is not None and job.lease_expires_at < now


def to_announce(
    session: Session,
    *,
    grace: timedelta,
    again: timedelta,
    limit: int = BATCH,
    max_running: int | None = None,
) -> Sequence[uuid.UUID]:
    """Due jobs that nobody claimed: `grace` after they came, then every `again`; marks them announced.

    `grace` leaves a fresh job to the bell that the api rings itself. Tenants take turns, those whose queue is
    paused or that run all they may are passed over, and so are jobs that no ready worker has the model for.
    """
    models = workers.able(session)
    tenants = list(queue_claims.ranked(session, max_running, limit, models))
    given = {
        "tenants": tenants,
        "grace": grace,
        "again": again,
        "limit": limit,
        "all": models is None,
        "models": models or [],
    }
    order = list(session.scalars(CANDIDATES, given))
    free = set(
        session.scalars(
            select(Job.id).where(Job.id.in_(order), Job.status == QUEUED).with_for_update(skip_locked=True)
        )
    )
    session.execute(
        update(Job).where(Job.id.in_(free)).values(dispatched_at=func.now()),
        execution_options={"synchronize_session": False},
    )
    return [job_id for job_id in order if job_id in free]


def announced(session: Session, models: Sequence[str], within: timedelta) -> bool:
    """Whether the dispatcher has rung for a queued job of these models lately."""
    query = text(
        f"select exists (select from jobs where status = 'queued' and {queue_claims.MODEL} = any(:models) and"
        " dispatched_at > now() - cast(:within as interval))"
    )
    return bool(session.scalar(query, {"models": [*models, workers.ANY], "within": within}))


def reap(session: Session, *, backoff: float) -> Reaped:
    """End what is past its deadline, requeue or end what lost its worker.

    `backoff`: seconds before the second attempt.
    """
    now, done = func.now(), Reaped()
    moment = session.execute(select(now)).scalar_one()
    lost = and_(Job.status == RUNNING, Job.lease_expires_at < now)
    overdue = and_(Job.status.in_(LITERAL.values()), Job.run_deadline_at < now)
    never_started = and_(Job.status == QUEUED, Job.started_at.is_(None), Job.queue_deadline_at < now)
    for job in locked(session, never_started):
        ended(session, done, job, moment, JobStatus.EXPIRED)
    for job in locked(session, and_(Job.status == JobStatus.CANCELLING, Job.lease_expires_at < now)):
        ended(session, done, job, moment, JobStatus.CANCELLED)
    for job in locked(
        session, and_(overdue, or_(Job.status == QUEUED, lost, Job.run_deadline_at < now - HUNG))
    ):
        ended(session, done, job, moment, JobStatus.FAILED, DEADLINE)
    for job in locked(session, lost):
        if job.attempt >= job.max_attempts:
            ended(session, done, job, moment, JobStatus.FAILED, LOST)
        else:
            wait = pause_before(job.attempt + 1, backoff)
            done.note(job, moment)
            values = {"available_at": now + wait, **WAITING}
            change(
                session,
                (Job.id == job.id,),
                values,
                "requeued",
                {"reason": "worker_lost", "backoff_s": wait.total_seconds()},
            )
            done.requeued.append(job.id)
    return done


def pause_before(attempt: int, backoff: float) -> timedelta:
    """How long a job waits for its second attempt, and twice as long for each further one."""
    return timedelta(seconds=min(MAX_BACKOFF, backoff * 2 ** (attempt - 2)))


def locked(session: Session, condition: ColumnElement[bool]) -> Sequence[Job]:
    options = {"populate_existing": True}
    return session.scalars(
        select(Job).where(condition).limit(BATCH).with_for_update(skip_locked=True), execution_options=options
    ).all()


def ended(
    session: Session,
    done: Reaped,
    job: Job,
    now: datetime,
    status: JobStatus,
    error: dict[str, object] | None = None,
) -> None:
    """End a job over its worker's head; the fence grows, so that a worker which still lives is refused from
    now on.
    """
    done.note(job, now)
    session.execute(
        update(Job).where(Job.id == job.id).values(fence=Job.fence + 1),
        execution_options={"synchronize_session": False},
    )
    finish(session, (Job.id == job.id,), status, error)
    done.ended.append((job.id, status))


def try_lead(session: Session, name: str) -> bool:
    """Whether this connection is the one leader of a loop; held until the connection ends."""
    return bool(
        session.scalar(
            text("select pg_try_advisory_lock(hashtextextended(:name, 0))"), {"name": f"expunge:{name}"}
        )
    )


def drop_old_checkpoints(session: Session, age: timedelta) -> None:
    """Forget checkpoints of jobs that ended longer ago than `age`; their bytes are noted for deletion."""
    old = select(Job.id).where(Job.status.in_(JobStatus.terminal()), Job.finished_at < func.now() - age)
    drop_checkpoints(session, Checkpoint.job_id.in_(old))
