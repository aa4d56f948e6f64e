"""An attempt at a job, from claim to end. Every write after the claim carries the fence: 0 rows means another
attempt holds the job.

All times are the database's now(), so a worker's clock never matters.
"""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import Boolean, ColumnElement, delete, func, literal_column, select, text, update
from sqlalchemy.orm import Session

from expunge.store import blob_deletions
from expunge.store.errors import CancelRequested, LostLease
from expunge.store.jobs import change
from expunge.store.models import Artifact, Checkpoint, Job
from expunge.store.queue_pauses import handing_over
from expunge.store.statuses import JobStatus

NO_LEASE = {"lease_owner": None, "lease_expires_at": None}
WORTH_IT = "attempt < max_attempts and (run_deadline_at is null or run_deadline_at > now())"
IN_TIME = "(started_at is not null or queue_deadline_at is null or queue_deadline_at > now())"
DUE = f"status = 'queued' and available_at <= now() and {IN_TIME} and {WORTH_IT}"
DEAD = (  # its worker has let the lease run out
    f"status = 'running' and lease_expires_at < now() and {WORTH_IT}"
)
READY: ColumnElement[bool] = literal_column(f"({DUE} or {DEAD})", Boolean)
# Back in the queue: no lease, to be announced anew, and the run's clock stands still, as waiting is not
# running.
WAITING = {
    "status": JobStatus.QUEUED,
    "dispatched_at": None,
    "run_left": func.coalesce(Job.run_deadline_at - func.now(), Job.run_left),
    "run_deadline_at": None,
    **NO_LEASE,
}


@dataclass(frozen=True)
class Beat:
    """What a heartbeat learns."""

    cancel_requested: bool
    past_deadline: bool
    hand_over: bool = False


@dataclass(frozen=True)
class NewArtifact:
    """A stored file that is to be published."""

    id: uuid.UUID
    name: str
    media_type: str
    size: int
    sha256: str
    key: str
    kind: str = "file"


def held(
    job_id: uuid.UUID, fence: int, statuses: Sequence[JobStatus] = JobStatus.leased()
) -> tuple[ColumnElement[bool], ...]:
    return (Job.id == job_id, Job.fence == fence, Job.status.in_(statuses))


def claim(session: Session, job_id: uuid.UUID, *, owner: str, lease: timedelta) -> Job | None:
    """Take this job, if it is due or its worker is dead, for one attempt; None otherwise. Which job to
    take, store/queue_claims.py says.
    """
    now = func.now()
    left = func.coalesce(Job.run_left, Job.run_timeout_s * timedelta(seconds=1))
    values = {
        "status": JobStatus.RUNNING,
        "attempt": Job.attempt + 1,
        "fence": Job.fence + 1,
        "lease_owner": owner,
        "lease_expires_at": now + lease,
        "started_at": func.coalesce(Job.started_at, now),
        "run_deadline_at": func.coalesce(Job.run_deadline_at, now + left),
    }
    job = change(session, (Job.id == job_id, READY), values, "started")
    if job is not None:
        session.execute(
            text("update tenants set last_started_at = now() where id = :id"), {"id": job.tenant_id}
        )
    return job


def heartbeat(session: Session, job_id: uuid.UUID, fence: int, lease: timedelta) -> Beat:
    """Extend the lease; says whether to stop.

    An expired lease that nobody took yet is still ours. LostLease.
    """
    statement = update(Job).where(*held(job_id, fence)).values(lease_expires_at=func.now() + lease)
    past = func.coalesce(Job.run_deadline_at < func.now(), False)
    row = session.execute(
        statement.returning(Job.status == JobStatus.CANCELLING, past, handing_over(Job.tenant_id))
    ).one_or_none()
    if row is None:
        raise LostLease(f"job {job_id}: fence {fence} holds it no more")
    return Beat(*row)


def progress(session: Session, job_id: uuid.UUID, fence: int, report: Mapping[str, Any]) -> Job:
    """The newest report, on the job and as an event. LostLease."""
    return or_lost(
        change(
            session, held(job_id, fence), {"progress": dict(report)}, "progress", {"progress": dict(report)}
        ),
        job_id,
        fence,
    )


def note(session: Session, job_id: uuid.UUID, fence: int, code: str, message: str) -> Job:
    """An event for people, for example that a checkpoint was corrupt. LostLease."""
    return or_lost(
        change(session, held(job_id, fence), {}, "note", {"code": code, "message": message}), job_id, fence
    )


def checkpoint(
    session: Session, job_id: uuid.UUID, fence: int, *, step: int, files: dict[str, Any], keep: int
) -> list[str]:
    """A checkpoint's row, its bytes being stored; gives the keys of the bytes that are no longer needed.

    LostLease. Idempotent.
    """
    if session.scalar(
        select(Checkpoint.id).where(
            Checkpoint.job_id == job_id, Checkpoint.fence == fence, Checkpoint.step == step
        )
    ):
        return []
    size = sum(file["size"] for file in files.values())
    job = or_lost(
        change(session, held(job_id, fence), {}, "checkpoint", {"step": step, "size": size}), job_id, fence
    )
    session.add(Checkpoint(job_id=job_id, attempt=job.attempt, fence=fence, step=step, files=files))
    session.flush()
    old = select(Checkpoint.id).where(Checkpoint.job_id == job_id).order_by(Checkpoint.id.desc()).offset(keep)
    return drop_checkpoints(session, Checkpoint.id.in_(old))


def checkpoints(session: Session, job_id: uuid.UUID) -> Sequence[Checkpoint]:
    """What an attempt may go on from, newest first."""
    return session.scalars(
        select(Checkpoint).where(Checkpoint.job_id == job_id).order_by(Checkpoint.id.desc())
    ).all()


def drop_checkpoints(session: Session, *where: ColumnElement[bool]) -> list[str]:
    """Delete checkpoint rows; gives the keys of their bytes, which are noted for deletion."""
    gone = session.scalars(
        delete(Checkpoint).where(*where).returning(Checkpoint.files),
        execution_options={"synchronize_session": False},
    )
    keys = [file["key"] for files in gone for file in files.values()]
    blob_deletions.note(session, keys)
    return keys


def publish(
    session: Session,
    job_id: uuid.UUID,
    fence: int,
    artifacts: Sequence[NewArtifact],
    *,
    verdict: dict[str, Any] | None,
    progress: dict[str, Any] | None,
) -> list[str]:
    """Artifact rows and `succeeded` in one transaction: this is the commit of a job. Gives checkpoint keys to
    delete. LostLease, CancelRequested.

    Idempotent: the same artifacts may be published again, as after a commit whose answer was lost.
    """
    shown = {
        "artifacts": [{"id": str(a.id), "name": a.name, "sha256": a.sha256} for a in artifacts],
        "verdict": verdict,
    }
    values = {
        "status": JobStatus.SUCCEEDED,
        "finished_at": func.now(),
        "verdict": verdict,
        "progress": progress,
        "error": None,
        **NO_LEASE,
    }
    job = change(session, held(job_id, fence, (JobStatus.RUNNING,)), values, "succeeded", shown)
    if job is None:
        if session.scalar(select(Job.id).where(*held(job_id, fence, (JobStatus.CANCELLING,)))):
            raise CancelRequested(f"job {job_id} is being cancelled")
        known = set(session.scalars(select(Artifact.id).where(Artifact.job_id == job_id)))
        if known and known == {artifact.id for artifact in artifacts}:
            return []
        raise LostLease(f"job {job_id}: fence {fence} holds it no more")
    session.add_all(Artifact(tenant_id=job.tenant_id, job_id=job_id, **vars(a)) for a in artifacts)
    session.flush()
    return drop_checkpoints(session, Checkpoint.job_id == job_id)


def fail(session: Session, job_id: uuid.UUID, fence: int, *, code: str, message: str, retryable: bool) -> Job:
    """The attempt's own error ends the job. LostLease."""
    error = {"code": code, "message": message, "retryable": retryable}
    return or_lost(finish(session, held(job_id, fence), JobStatus.FAILED, error), job_id, fence)


def fail_unless_cancelled(
    session: Session, job_id: uuid.UUID, fence: int, *, code: str, message: str, retryable: bool
) -> Job:
    """Like `fail`, but a job whose cancellation was asked for ends as cancelled. LostLease."""
    job = finish(session, held(job_id, fence, (JobStatus.CANCELLING,)), JobStatus.CANCELLED)
    return job or fail(session, job_id, fence, code=code, message=message, retryable=retryable)


def cancelled(session: Session, job_id: uuid.UUID, fence: int) -> Job:
    """The second phase of a cancellation: the worker has stopped. The last checkpoint stays. LostLease."""
    return or_lost(
        finish(session, held(job_id, fence, (JobStatus.CANCELLING,)), JobStatus.CANCELLED), job_id, fence
    )


def release(session: Session, job_id: uuid.UUID, fence: int, *, reason: str, charged: bool = False) -> Job:
    """Hand the job over, as at a shutdown: queued again, and the attempt is not charged unless asked for.

    LostLease.
    """
    values = {"attempt": Job.attempt if charged else Job.attempt - 1, "available_at": func.now(), **WAITING}
    job = change(session, held(job_id, fence, (JobStatus.RUNNING,)), values, "requeued", {"reason": reason})
    return job or or_lost(
        finish(session, held(job_id, fence, (JobStatus.CANCELLING,)), JobStatus.CANCELLED), job_id, fence
    )


def requeue(
    session: Session, job_id: uuid.UUID, fence: int, *, reason: str, worker: str | None, wait: timedelta
) -> Job:
    """The worker could not run the job: queued again after `wait`, the attempt charged, and not for this
    worker while another can take it. LostLease.
    """
    values: dict[str, Any] = {"available_at": func.now() + wait, **WAITING}
    if worker is not None:
        values["failed_on"] = func.array_append(Job.failed_on, worker)
    job = change(
        session,
        held(job_id, fence, (JobStatus.RUNNING,)),
        values,
        "requeued",
        {"reason": reason, "backoff_s": wait.total_seconds()},
    )
    return job or or_lost(
        finish(session, held(job_id, fence, (JobStatus.CANCELLING,)), JobStatus.CANCELLED), job_id, fence
    )


def finish(
    session: Session, where: Sequence[ColumnElement[bool]], status: str, error: dict[str, Any] | None = None
) -> Job | None:
    """An end other than success; the error names the attempt it ended."""
    values: dict[str, Any] = {"status": status, "finished_at": func.now(), **NO_LEASE}
    if error is None:
        return change(session, where, values, status)
    attempt = session.scalar(select(Job.attempt).where(*where).with_for_update())
    if attempt is None:
        return None
    error = {**error, "attempt": attempt}
    return change(session, where, {**values, "error": error}, status, {"error": error})


def or_lost(job: Job | None, job_id: uuid.UUID, fence: int) -> Job:
    if job is None:
        raise LostLease(f"job {job_id}: fence {fence} holds it no more")
    return job
