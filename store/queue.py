"""The loops' view of the queue: what to announce, and what to take from the dead. Rows another loop holds are skipped."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, delete, func, or_, select, text, update
from sqlalchemy.orm import Session

from store.attempts import NO_LEASE, finish
from store.jobs import change
from store.models import TERMINAL, Checkpoint, Job

TASK, QUEUE = "expunge.run", "expunge"  # the bell: this Celery task on this queue, with a job id and nothing else
BATCH = 100
MAX_BACKOFF = 300.0  # seconds
HUNG = timedelta(seconds=60)  # past its deadline with a live lease: the worker had its chance to stop

DEADLINE = {"code": "deadline_exceeded", "message": "the job ran past its run_timeout_s", "retryable": True}
LOST = {"code": "worker_lost", "message": "every worker that took this job was lost", "retryable": True}


@dataclass
class Reaped:
    """What one round of the reaper did."""

    requeued: list[uuid.UUID] = field(default_factory=list)
    ended: list[tuple[uuid.UUID, str]] = field(default_factory=list)
    facts: dict[uuid.UUID, dict[str, Any]] = field(default_factory=dict)  # what a log line says of each
    expiries: int = 0  # leases that ran out

    def note(self, job: Job, now: datetime) -> None:
        self.facts[job.id] = job.facts()
        self.expiries += job.lease_expires_at is not None and job.lease_expires_at < now


def to_announce(session: Session, *, grace: timedelta, again: timedelta, limit: int = BATCH) -> Sequence[uuid.UUID]:
    """Due jobs that nobody claimed: `grace` after they came, then every `again`; marks them announced.

    `grace` leaves a fresh job to the bell that the api rings itself.
    """
    now = func.now()
    fresh = and_(Job.dispatched_at.is_(None), or_(Job.attempt > 0, Job.started_at.is_not(None), Job.available_at <= now - grace))
    due = (Job.status == "queued", Job.available_at <= now, or_(fresh, Job.dispatched_at <= now - again))
    chosen = select(Job.id).where(*due).order_by(Job.available_at).limit(limit).with_for_update(skip_locked=True)
    ids = session.scalars(chosen).all()
    session.execute(update(Job).where(Job.id.in_(ids)).values(dispatched_at=now), execution_options={"synchronize_session": False})
    return ids


def reap(session: Session, *, backoff: float) -> Reaped:
    """End what is past its deadline, requeue or end what lost its worker. `backoff`: seconds before the second attempt."""
    now, done = func.now(), Reaped()
    moment = session.execute(select(now)).scalar_one()
    dead = and_(Job.status == "running", Job.lease_expires_at < now)
    overdue = Job.run_deadline_at < now
    never_started = and_(Job.status == "queued", Job.started_at.is_(None), Job.queue_deadline_at < now)
    hung = and_(Job.status.in_(("running", "cancelling")), Job.run_deadline_at < now - HUNG)
    for job in locked(session, never_started):
        ended(session, done, job, moment, "expired")
    for job in locked(session, and_(Job.status == "cancelling", Job.lease_expires_at < now)):
        ended(session, done, job, moment, "cancelled")
    for job in locked(session, or_(and_(Job.status == "queued", overdue), and_(dead, overdue), hung)):
        ended(session, done, job, moment, "failed", DEADLINE)
    for job in locked(session, dead):
        if job.attempt >= job.max_attempts:
            ended(session, done, job, moment, "failed", LOST)
        else:
            wait = timedelta(seconds=min(MAX_BACKOFF, backoff * 2 ** (job.attempt - 1)))
            values = {"status": "queued", "available_at": now + wait, "dispatched_at": None, **NO_LEASE}
            done.note(job, moment)
            change(session, (Job.id == job.id,), values, "requeued", {"reason": "worker_lost", "backoff_s": wait.total_seconds()})
            done.requeued.append(job.id)
    return done


def locked(session: Session, condition: ColumnElement[bool]) -> Sequence[Job]:
    options = {"populate_existing": True}
    return session.scalars(select(Job).where(condition).limit(BATCH).with_for_update(skip_locked=True), execution_options=options).all()


def ended(session: Session, done: Reaped, job: Job, now: datetime, status: str, error: dict[str, object] | None = None) -> None:
    """End a job over its worker's head; the fence grows, so that a worker which still lives is refused from now on."""
    done.note(job, now)
    session.execute(update(Job).where(Job.id == job.id).values(fence=Job.fence + 1), execution_options={"synchronize_session": False})
    finish(session, (Job.id == job.id,), status, error)
    done.ended.append((job.id, status))


def try_lead(session: Session, name: str) -> bool:
    """Whether this connection is the one leader of a loop; held until the connection ends."""
    return bool(session.scalar(text("select pg_try_advisory_lock(hashtextextended(:name, 0))"), {"name": f"expunge:{name}"}))


def drop_old_checkpoints(session: Session, age: timedelta) -> None:
    """Forget checkpoints of jobs that ended longer ago than `age`; the sweep then deletes their bytes."""
    old = select(Job.id).where(Job.status.in_(TERMINAL), Job.finished_at < func.now() - age)
    session.execute(delete(Checkpoint).where(Checkpoint.job_id.in_(old)), execution_options={"synchronize_session": False})
