"""An attempt at a job, from its claim to its end, as the worker writes it.

Every write after the claim names the attempt's fence. Where another attempt has taken the job over, no row
fits and LostLease is raised. All times are the database's now(), so a worker's clock never matters.
"""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from sqlalchemy import Boolean, ColumnElement, delete, func, literal_column, select, text, update
from sqlalchemy.orm import Session

from expunge.store import blob_deletions
from expunge.store.errors import CancelRequested, LostLease
from expunge.store.jobs import change
from expunge.store.models import Artifact, Checkpoint, Job
from expunge.store.queue_pauses import hands_over
from expunge.store.statuses import JobStatus

# Which jobs an attempt may take, in SQL
CAN_BE_TRIED = "attempt < max_attempts and (run_deadline_at is null or run_deadline_at > now())"
CAN_START = "(started_at is not null or queue_deadline_at is null or queue_deadline_at > now())"
DUE = f"status = 'queued' and available_at <= now() and {CAN_START} and {CAN_BE_TRIED}"
ABANDONED = f"status = 'running' and lease_expires_at < now() and {CAN_BE_TRIED}"
CLAIMABLE: ColumnElement[bool] = literal_column(f"({DUE} or {ABANDONED})", Boolean)

NO_LEASE = {"lease_owner": None, "lease_expires_at": None}
REQUEUED = {
    "status": JobStatus.QUEUED,
    "dispatched_at": None,  # to be announced again
    "run_left": func.coalesce(Job.run_deadline_at - func.now(), Job.run_left),  # waiting is not running
    "run_deadline_at": None,
    **NO_LEASE,
}


@dataclass(frozen=True)
class Heartbeat:
    """What a heartbeat tells the worker."""

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
    info: dict[str, Any] = field(default_factory=dict)


def leased(
    job_id: uuid.UUID, fence: int, statuses: Sequence[JobStatus] = JobStatus.leased()
) -> tuple[ColumnElement[bool], ...]:
    """Conditions: the job, while the attempt with this fence has it."""
    return (Job.id == job_id, Job.fence == fence, Job.status.in_(statuses))


def claim(session: Session, job_id: uuid.UUID, *, owner: str, lease: timedelta) -> Job | None:
    """Take this job for one attempt, if it is due or its worker is dead; None otherwise.

    store/queue_claims.py says which job to take.
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
    job = change(session, (Job.id == job_id, CLAIMABLE), values, "started")
    if job is not None:
        session.execute(
            text("update tenants set last_started_at = now() where id = :id"), {"id": job.tenant_id}
        )
    return job


def heartbeat(session: Session, job_id: uuid.UUID, fence: int, lease: timedelta) -> Heartbeat:
    """Extend the lease and say whether to stop. An expired lease that nobody took yet is extended too.

    Raises: LostLease.
    """
    statement = update(Job).where(*leased(job_id, fence)).values(lease_expires_at=func.now() + lease)
    past = func.coalesce(Job.run_deadline_at < func.now(), False)
    row = session.execute(
        statement.returning(Job.status == JobStatus.CANCELLING, past, hands_over(Job.tenant_id))
    ).one_or_none()
    if row is None:
        raise lost_lease(job_id, fence)
    return Heartbeat(*row)


def report_progress(session: Session, job_id: uuid.UUID, fence: int, report: Mapping[str, Any]) -> Job:
    """Keep the newest report on the job, and as an event.

    Raises: LostLease.
    """
    values = {"progress": dict(report)}
    job = change(session, leased(job_id, fence), values, "progress", values)
    return not_lost(job, job_id, fence)


def add_note(session: Session, job_id: uuid.UUID, fence: int, code: str, message: str) -> Job:
    """Write an event for people, for example that a checkpoint was corrupt.

    Raises: LostLease.
    """
    job = change(session, leased(job_id, fence), {}, "note", {"code": code, "message": message})
    return not_lost(job, job_id, fence)


# Checkpoints


def add_checkpoint(
    session: Session, job_id: uuid.UUID, fence: int, *, step: int, files: dict[str, Any], keep: int
) -> list[str]:
    """Write a checkpoint's row, once its bytes are stored, and delete all but the newest `keep`.

    May be repeated. Returns the storage keys of bytes that are no longer needed.

    Raises: LostLease.
    """
    mine = (Checkpoint.job_id == job_id, Checkpoint.fence == fence, Checkpoint.step == step)
    if session.scalar(select(Checkpoint.id).where(*mine)):
        return []
    size = sum(file["size"] for file in files.values())
    job = change(session, leased(job_id, fence), {}, "checkpoint", {"step": step, "size": size})
    attempt = not_lost(job, job_id, fence).attempt
    session.add(Checkpoint(job_id=job_id, attempt=attempt, fence=fence, step=step, files=files))
    session.flush()
    old = select(Checkpoint.id).where(Checkpoint.job_id == job_id).order_by(Checkpoint.id.desc()).offset(keep)
    return delete_checkpoints(session, Checkpoint.id.in_(old))


def list_checkpoints(session: Session, job_id: uuid.UUID) -> Sequence[Checkpoint]:
    """What an attempt may go on from, newest first."""
    query = select(Checkpoint).where(Checkpoint.job_id == job_id).order_by(Checkpoint.id.desc())
    return session.scalars(query).all()


def delete_checkpoints(session: Session, *where: ColumnElement[bool]) -> list[str]:
    """Delete checkpoints; returns the storage keys of their bytes, whose deletion is scheduled."""
    deleted = session.scalars(
        delete(Checkpoint).where(*where).returning(Checkpoint.files),
        execution_options={"synchronize_session": False},
    )
    keys = [file["key"] for files in deleted for file in files.values()]
    blob_deletions.schedule(session, keys)
    return keys


def delete_old_checkpoints(session: Session, age: timedelta) -> None:
    """Delete the checkpoints of jobs that ended longer ago than `age`."""
    old = select(Job.id).where(Job.status.in_(JobStatus.terminal()), Job.finished_at < func.now() - age)
    delete_checkpoints(session, Checkpoint.job_id.in_(old))


# The end of an attempt


def publish(
    session: Session,
    job_id: uuid.UUID,
    fence: int,
    artifacts: Sequence[NewArtifact],
    *,
    verdict: dict[str, Any] | None,
    progress: dict[str, Any] | None,
) -> list[str]:
    """Write the artifacts' rows and the status `succeeded` in one transaction: a job's commit.

    The same artifacts may be published again, as after a commit whose answer was lost. Returns the storage
    keys of checkpoints that are no longer needed.

    Raises: LostLease; CancelRequested where the job is being cancelled.
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
    job = change(session, leased(job_id, fence, (JobStatus.RUNNING,)), values, "succeeded", shown)
    if job is None:
        if session.scalar(select(Job.id).where(*leased(job_id, fence, (JobStatus.CANCELLING,)))):
            raise CancelRequested(f"job {job_id} is being cancelled")
        known = set(session.scalars(select(Artifact.id).where(Artifact.job_id == job_id)))
        if known and known == {artifact.id for artifact in artifacts}:
            return []
        raise lost_lease(job_id, fence)
    session.add_all(Artifact(tenant_id=job.tenant_id, job_id=job_id, **vars(a)) for a in artifacts)
    session.flush()
    return delete_checkpoints(session, Checkpoint.job_id == job_id)


def fail(session: Session, job_id: uuid.UUID, fence: int, *, code: str, message: str, retryable: bool) -> Job:
    """End the job with the attempt's own error.

    Raises: LostLease.
    """
    error = {"code": code, "message": message, "retryable": retryable}
    return not_lost(finish(session, leased(job_id, fence), JobStatus.FAILED, error), job_id, fence)


def fail_unless_cancelled(
    session: Session, job_id: uuid.UUID, fence: int, *, code: str, message: str, retryable: bool
) -> Job:
    """Like `fail`, but a job that is being cancelled ends as cancelled.

    Raises: LostLease.
    """
    job = cancel_if_requested(session, job_id, fence)
    return job or fail(session, job_id, fence, code=code, message=message, retryable=retryable)


def confirm_cancelled(session: Session, job_id: uuid.UUID, fence: int) -> Job:
    """End a job that is being cancelled: its worker has stopped. The last checkpoint stays.

    Raises: LostLease.
    """
    return not_lost(cancel_if_requested(session, job_id, fence), job_id, fence)


def release(session: Session, job_id: uuid.UUID, fence: int, *, reason: str, charged: bool = False) -> Job:
    """Hand the job over, as at a shutdown: queued again; `charged`: whether the attempt counts.

    A job that is being cancelled ends instead.

    Raises: LostLease.
    """
    values = {"attempt": Job.attempt if charged else Job.attempt - 1, "available_at": func.now(), **REQUEUED}
    job = change(session, leased(job_id, fence, (JobStatus.RUNNING,)), values, "requeued", {"reason": reason})
    return job or confirm_cancelled(session, job_id, fence)


def requeue(
    session: Session, job_id: uuid.UUID, fence: int, *, reason: str, worker: str | None, wait: timedelta
) -> Job:
    """Queue a job again, after `wait`, that the worker could not run; the attempt counts.

    `worker` gets it no more while another can take it. A job that is being cancelled ends instead.

    Raises: LostLease.
    """
    values: dict[str, Any] = {"available_at": func.now() + wait, **REQUEUED}
    if worker is not None:
        values["failed_on"] = func.array_append(Job.failed_on, worker)
    facts = {"reason": reason, "backoff_s": wait.total_seconds()}
    job = change(session, leased(job_id, fence, (JobStatus.RUNNING,)), values, "requeued", facts)
    return job or confirm_cancelled(session, job_id, fence)


def cancel_if_requested(session: Session, job_id: uuid.UUID, fence: int) -> Job | None:
    return finish(session, leased(job_id, fence, (JobStatus.CANCELLING,)), JobStatus.CANCELLED)


def finish(
    session: Session,
    where: Sequence[ColumnElement[bool]],
    status: JobStatus,
    error: dict[str, Any] | None = None,
) -> Job | None:
    """End a job other than by success; the error gets the number of the attempt that it ended."""
    values: dict[str, Any] = {"status": status, "finished_at": func.now(), **NO_LEASE}
    if error is None:
        return change(session, where, values, status)
    attempt = session.scalar(select(Job.attempt).where(*where).with_for_update())
    if attempt is None:
        return None
    error = {**error, "attempt": attempt}
    return change(session, where, {**values, "error": error}, status, {"error": error})


def not_lost(job: Job | None, job_id: uuid.UUID, fence: int) -> Job:
    """The job that was changed.

    Raises: LostLease where none was.
    """
    if job is None:
        raise lost_lease(job_id, fence)
    return job


def lost_lease(job_id: uuid.UUID, fence: int) -> LostLease:
    return LostLease(f"job {job_id}: the attempt with fence {fence} has lost it")
