"""The Celery task: claim a job, run it, publish its artifacts or record why it failed.

Every error ends in the job's row; the message is always acknowledged.
"""

import errno
import os
import socket
import tempfile
import uuid
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
from sqlalchemy.orm import Session

from expunge.core.errors import CoreError
from expunge.store import attempts, db, deployment, logs, queue_claims, tracing
from expunge.store.errors import BlobExists, CancelRequested, CorruptBlob, LostLease
from expunge.store.models import Job
from expunge.store.queue_announcements import TASK
from expunge.store.queue_recovery import wait_before
from expunge.store.settings import Settings
from expunge.worker import dispatcher, error_causes, metrics, out_of_memory, readiness, shutdown
from expunge.worker.app import app, settings
from expunge.worker.checkpoints import JobCheckpoints
from expunge.worker.lease import Lease, is_unreachable
from expunge.worker.publish import publish
from expunge.worker.runner import find_runner
from expunge.worker.stop import Cancelled, HandOver, Stop, settle

if TYPE_CHECKING:
    from expunge.core.outcome import Outcome

log = structlog.get_logger("worker")
# Whether this process must end with its attempt: most CUDA errors come back in every later call, and a new
# process may find the device repaired
must_replace_process = False


@app.task(name=TASK)  # type: ignore[untyped-decorator]
def run(job_id: str) -> None:
    """Answer a wake-up message: run whichever job is due first by fair scheduling. The id in the message is
    only of the job that it was sent for.
    """
    if run_attempt(settings, uuid.UUID(job_id)) is not None:
        dispatcher.announce_next(settings)
    if must_replace_process:
        log.warning(
            "process_replaced", reason="the worker failed, and may go on failing in this process alone"
        )
        tracing.flush()
        os._exit(1)


def run_attempt(settings: Settings, message_job_id: uuid.UUID) -> Job | None:
    """Make one attempt at the job that is due first; None where none may start."""
    job = claim(settings)
    if job is None:
        log.info("no_job_due", job_id=str(message_job_id))
        return None

    # Name the job in every log line and in the trace, and hide what its spec keeps secret.
    structlog.contextvars.bind_contextvars(**job.facts())
    logs.hide(job.spec)
    facts: dict[str, str | int] = {
        "job.id": str(job.id),
        "job.kind": job.kind,
        "job.attempt": job.attempt,
        "job.fence": job.fence,
    }

    # Run it under its lease.
    outcome, blamed = "lost", None
    readiness.note_attempt_started()
    try:
        with tracing.continue_trace("attempt", job.trace, **facts) as span:
            log.info("job_started", kind=job.kind)
            with Lease(settings, job) as lease:
                outcome, blamed = run_and_publish(settings, job, lease)
            span.set_attribute("job.outcome", outcome)
    except LostLease as error:
        log.warning("lease_lost", error=str(error))
    finally:
        readiness.note_attempt_ended(blamed, succeeded=outcome == "succeeded")
        metrics.attempts.labels(job.kind, outcome).inc()
        logs.hide({})
        structlog.contextvars.clear_contextvars()
    return job


def claim(settings: Settings) -> Job | None:
    """Claim the job that is due first, unless this worker is suspended."""
    if not readiness.may_claim(settings.suspend_after_failures):
        return None
    with db.transaction(settings.database_url.get_secret_value()) as session:
        return queue_claims.claim_next(
            session,
            owner=f"{socket.gethostname()}:{os.getpid()}",
            lease=timedelta(seconds=settings.lease_seconds),
            max_running=settings.max_running_jobs,
            worker=readiness.worker_id,
        )


def run_and_publish(settings: Settings, job: Job, lease: Lease) -> tuple[str, str | None]:
    """Run a claimed job and publish what it made; every error ends the job or sends it to another worker.

    Returns (outcome, code): how the attempt ended, for the metrics, and the code of the worker's own failure
    where there was one. Raises: LostLease.
    """
    try:
        with make_scratch_folder() as folder:
            blobs = deployment.open_store_cached(settings)
            checkpoints = JobCheckpoints(lease, blobs, settings.keep_checkpoints)
            outcome = run_job(settings, job, lease, Path(folder), checkpoints)
            publish(lease, blobs, outcome, lease.latest)
        log.info("job_succeeded", artifacts=len(outcome.outputs))
        return "succeeded", None
    except LostLease:
        raise
    except CancelRequested:
        return end_stopped(job, lease, Cancelled()), None
    except Stop as reason:
        return end_stopped(job, lease, reason), None
    except Exception as error:
        return end_failed(settings, job, lease, error)


def run_job(
    settings: Settings, job: Job, lease: Lease, folder: Path, checkpoints: JobCheckpoints
) -> "Outcome":
    """Run the job's runner; once more with a smaller batch where it runs out of memory."""
    run = partial(find_runner(settings), settings=settings, callback=lease, checkpoints=checkpoints)
    try:
        return run(job, make_folder(folder, "run"))
    except Exception as error:
        less = out_of_memory.shrink(job.spec) if out_of_memory.out_of_memory(error) else None
        if less is None:
            raise
        reason = f"{type(error).__name__}: {error}"
    # Outside of the except clause nothing holds the error, whose traceback holds the tensors.
    out_of_memory.free()
    job.spec, changes = less  # of this copy alone: the job's row keeps what was asked for
    metrics.out_of_memory_retries.inc()
    log.warning("out_of_memory", changes=changes, error=reason)
    checkpoints.note("out_of_memory", f"the run did not fit into memory: once more with {changes}")
    return run(job, make_folder(folder, "smaller"))


def make_scratch_folder() -> tempfile.TemporaryDirectory[str]:
    """A folder for the run.

    Raises: OSError with EIO where none can be made, for whatever reason: that is the host's fault.
    """
    try:
        return tempfile.TemporaryDirectory(prefix="expunge-job-", ignore_cleanup_errors=True)
    except OSError as error:
        raise OSError(errno.EIO, f"no folder for temporary files can be made: {error}") from error


def make_folder(parent: Path, name: str) -> Path:
    (parent / name).mkdir()
    return parent / name


# How an attempt ends other than well


def end_stopped(job: Job, lease: Lease, reason: Stop) -> str:
    """Settle a run that was stopped for this reason; returns the attempt's outcome, for the metrics."""
    log.info("job_stopped", reason=type(reason).__name__)
    lease.write(lambda session: settle(session, job, reason))
    return reason.outcome


def end_failed(settings: Settings, job: Job, lease: Lease, error: Exception) -> tuple[str, str | None]:
    """Fail the job, or send it to another worker where this one may be to blame; returns what
    `run_and_publish` does.
    """
    global must_replace_process
    if is_unreachable(error):  # the job goes on from its last checkpoint
        log.warning("database_unreachable_too_long", error=type(error).__name__)
        lease.write(lambda session: hand_over(session, job))
        return "lost", None
    fault = error_causes.find_fault(error)
    # A library whose loading was cut off, say: the shutdown's doing, not the host's
    if fault is not None and shutdown.requested():
        return end_stopped(job, lease, HandOver("the worker shuts down")), None

    # Whose fault it is decides who tries again: a fault of the worker's goes elsewhere, an unforeseen error
    # once.
    must_replace_process = fault is not None and fault.blames_worker
    code, message, retryable = explain(error)
    blamed = code if fault is not None and fault.blames_worker else None
    may_help = fault is not None or (code == "internal_error" and not job.failed_on)
    again = may_help and job.attempt < job.max_attempts
    log.exception("worker_failed" if fault else "attempt_failed" if again else "job_failed", code=code)
    if fault is not None:
        metrics.faults.labels(code).inc()
        message = fault.last_message(job.attempt)

    if again:
        lease.write(lambda session: requeue(session, settings, job, code))
        return "requeued", blamed
    lease.write(lambda session: fail(session, job, code, message, retryable))
    return "failed", blamed


def requeue(session: Session, settings: Settings, job: Job, code: str) -> None:
    """Queue the job again, the attempt charged, for another worker where there is one."""
    wait = wait_before(job.attempt + 1, settings.backoff_seconds)
    worker = str(readiness.worker_id or socket.gethostname())
    attempts.requeue(session, job.id, job.fence, reason=code, worker=worker, wait=wait)


def hand_over(session: Session, job: Job) -> None:
    """Queue the job again, the attempt charged; fail it when this was the last."""
    if job.attempt < job.max_attempts:
        attempts.release(session, job.id, job.fence, reason="database_away", charged=True)
    else:
        message = "the database went away in every attempt: retry the job"
        fail(session, job, "database_error", message, retryable=True)


def fail(session: Session, job: Job, code: str, message: str, retryable: bool) -> None:
    """Fail the job, unless it was cancelled before."""
    held = attempts.fail_unless_cancelled(
        session, job.id, job.fence, code=code, message=message, retryable=retryable
    )
    log.info("job_ended", status=held.status)


def explain(error: Exception) -> tuple[str, str, bool]:
    """(code, message, retryable) for the client; the text of an unforeseen error goes to the log only."""
    fault = error_causes.find_fault(error)
    if fault is not None:
        return fault.code, fault.message, True
    if isinstance(error, CoreError):
        return error.code, error.message, error.retryable
    if isinstance(error, BlobExists | CorruptBlob):
        message = "a stored file was damaged or taken: repair the artifact store, then retry the job"
        return "storage_error", message, True
    if out_of_memory.out_of_memory(error):
        message = (
            "the run did not fit into memory, nor did half the batch where there is one: lower"
            " method.batch_size or method.lora.rank"
        )
        return "out_of_memory", message, False
    message = "the run ended with an unforeseen error, which the worker's log has under this job's id"
    return "internal_error", message, False
