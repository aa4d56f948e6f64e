"""What the reaper does: jobs whose worker died go back into the queue, jobs past a deadline end.

Rows that another transaction has locked are left to the next round.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, func, or_, select, update
from sqlalchemy.orm import Session

from expunge.store.attempts import REQUEUED, finish
from expunge.store.jobs import LITERAL, change
from expunge.store.models import Job
from expunge.store.statuses import JobStatus

BATCH = 100  # jobs of one sort that one round takes
MAX_BACKOFF = 300.0  # seconds
QUEUED, RUNNING = LITERAL[JobStatus.QUEUED], LITERAL[JobStatus.RUNNING]
HUNG = timedelta(seconds=60)  # past its deadline with a live lease: long enough for a worker to stop

DEADLINE_EXCEEDED = {
    "code": "deadline_exceeded",
    "message": "the job ran past its run_timeout_s",
    "retryable": True,
}
WORKER_LOST = {
    "code": "worker_lost",
    "message": "every worker that took this job was lost",
    "retryable": True,
}


@dataclass
class ReaperRound:
    """What one round of the reaper did."""

    requeued: list[uuid.UUID] = field(default_factory=list)
    ended: list[tuple[uuid.UUID, str]] = field(default_factory=list)
    facts: dict[uuid.UUID, dict[str, Any]] = field(default_factory=dict)  # what a log line says of each
    expiries: int = 0  # leases that ran out

    @property
    def full(self) -> bool:
        """Whether more may be left than one round takes."""
        return len(self.requeued) + len(self.ended) >= BATCH

    def add(self, job: Job, now: datetime) -> None:
        self.facts[job.id] = job.facts()
        self.expiries += job.lease_expires_at is not None and job.lease_expires_at < now


def reap(session: Session, *, backoff: float) -> ReaperRound:
    """End jobs that are past a deadline; requeue, or end, jobs whose worker let the lease expire.

    `backoff`: seconds before the second attempt.
    """
    now, done = func.now(), ReaperRound()
    moment = session.execute(select(now)).scalar_one()
    lost = and_(Job.status == RUNNING, Job.lease_expires_at < now)
    overdue = and_(Job.status.in_(LITERAL.values()), Job.run_deadline_at < now)
    never_started = and_(Job.status == QUEUED, Job.started_at.is_(None), Job.queue_deadline_at < now)
    for job in lock(session, never_started):
        end(session, done, job, moment, JobStatus.EXPIRED)
    for job in lock(session, and_(Job.status == JobStatus.CANCELLING, Job.lease_expires_at < now)):
        end(session, done, job, moment, JobStatus.CANCELLED)
    without_worker = or_(Job.status == QUEUED, lost, Job.run_deadline_at < now - HUNG)
    for job in lock(session, and_(overdue, without_worker)):
        end(session, done, job, moment, JobStatus.FAILED, DEADLINE_EXCEEDED)
    for job in lock(session, lost):
        if job.attempt >= job.max_attempts:
            end(session, done, job, moment, JobStatus.FAILED, WORKER_LOST)
        else:
            wait = wait_before(job.attempt + 1, backoff)
            done.add(job, moment)
            values = {"available_at": now + wait, **REQUEUED}
            facts = {"reason": "worker_lost", "backoff_s": wait.total_seconds()}
            change(session, (Job.id == job.id,), values, "requeued", facts)
            done.requeued.append(job.id)
    return done


def wait_before(attempt: int, backoff: float) -> timedelta:
    """How long a job waits for its second attempt, and twice as long for each further one."""
    return timedelta(seconds=min(MAX_BACKOFF, backoff * 2 ** (attempt - 2)))


def lock(session: Session, condition: ColumnElement[bool]) -> Sequence[Job]:
    """At most BATCH jobs that fit, without those that are locked already."""
    options = {"populate_existing": True}
    return session.scalars(
        select(Job).where(condition).limit(BATCH).with_for_update(skip_locked=True), execution_options=options
    ).all()


def end(
    session: Session,
    done: ReaperRound,
    job: Job,
    now: datetime,
    status: JobStatus,
    error: dict[str, object] | None = None,
) -> None:
    """End a job without its worker; the fence grows, so that a worker which still lives is refused."""
    done.add(job, now)
    session.execute(
        update(Job).where(Job.id == job.id).values(fence=Job.fence + 1),
        execution_options={"synchronize_session": False},
    )
    finish(session, (Job.id == job.id,), status, error)
    done.ended.append((job.id, status))
