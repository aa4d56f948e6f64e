"""The Celery task: claim a job, run it, publish or say why not.

Errors end in the job's row; the message is always acknowledged.
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
from expunge.worker.lease import Cancelled, DeadlineExceeded, HandOver, Lease, Paused, Stop, away, settle
from expunge.worker.publish import publish
from expunge.worker.runner import runner_for

if TYPE_CHECKING:
    from expunge.core.outcome import Outcome

log = structlog.get_logger("worker")
OUTCOMES = {
    Cancelled: "cancelled",
    DeadlineExceeded: "failed",
    HandOver: "handed_over",
    Paused: "handed_over",
}
# Whether this process is to end with its attempt: most errors of CUDA come back in every later call, and a
# new process may see what was mended
spoiled = False


@app.task(name=TASK)  # type: ignore[untyped-decorator]
def run(job_id: str) -> None:
    """One bell: take whatever is fairest; the id that the message holds is only what somebody rang for."""
    if attempt(settings, uuid.UUID(job_id)) is not None:
        dispatcher.ring_on(settings)
    if spoiled:
        log.warning(
            "process_replaced", reason="the worker failed, and may go on failing in this process alone"
        )
        tracing.flush()
        os._exit(1)


def attempt(settings: Settings, bell: uuid.UUID) -> Job | None:
    """One attempt at the fairest job that is due, to whatever end; None when nothing may start."""
    url = settings.database_url.get_secret_value()
    job = None
    if readiness.may_claim(settings.suspend_after_failures):
        with db.transaction(url) as session:
            owner = f"{socket.gethostname()}:{os.getpid()}"
            length = timedelta(seconds=settings.lease_seconds)
            job = queue_claims.claim_next(
                session, owner=owner, lease=length, max_running=settings.max_running_jobs, worker=readiness.me
            )
    if job is None:
        log.info("nothing_to_do", job_id=str(bell))
        return None
    structlog.contextvars.bind_contextvars(**job.facts())
    logs.hide(job.spec)
    facts: dict[str, str | int] = {
        "job.id": str(job.id),
        "job.kind": job.kind,
        "job.attempt": job.attempt,
        "job.fence": job.fence,
    }
    outcome, fault = "lost", None
    readiness.begun()
    try:
        with tracing.continue_trace("attempt", job.trace, **facts) as span:
            log.info("job_started", kind=job.kind)
            with Lease(settings, job) as lease:
                outcome, fault = work(settings, job, lease)
            span.set_attribute("job.outcome", outcome)
    except LostLease as error:
        log.warning("lease_lost", error=str(error))
    finally:
        readiness.ended(fault, succeeded=outcome == "succeeded")
        metrics.attempts.labels(job.kind, outcome).inc()
        logs.hide({})
        structlog.contextvars.clear_contextvars()
    return job


def run_job(
    settings: Settings, job: Job, lease: Lease, folder: Path, checkpoints: JobCheckpoints
) -> "Outcome":
    """What the job's runner makes; when it runs out of memory, what it makes with less, once."""
    run = partial(runner_for(settings), settings=settings, callback=lease, checkpoints=checkpoints)
    try:
        return run(job, fresh(folder, "run"))
    except Exception as error:
        less = out_of_memory.smaller(job.spec) if out_of_memory.out_of_memory(error) else None
        if less is None:
            raise
        reason = f"{type(error).__name__}: {error}"
    # Out of the except clause nothing holds the error, whose traceback holds the tensors.
    out_of_memory.free()
    job.spec, changes = less  # this copy's alone: the job's row keeps what was asked for
    metrics.smaller.inc()
    log.warning("out_of_memory", changes=changes, error=reason)
    checkpoints.note("out_of_memory", f"the run did not fit into memory: once more with {changes}")
    return run(job, fresh(folder, "smaller"))


def fresh(folder: Path, name: str) -> Path:
    (folder / name).mkdir()
    return folder / name


def work(settings: Settings, job: Job, lease: Lease) -> tuple[str, str | None]:
    """Run and publish; every error but a lost lease becomes the job's end, or sends it elsewhere.

    How the attempt ended, for the metrics, and what the worker itself could not do.
    """
    global spoiled
    try:
        with scratch() as folder:
            blobs = deployment.open_store_cached(settings)
            checkpoints = JobCheckpoints(lease, blobs, settings.keep_checkpoints)
            outcome = run_job(settings, job, lease, Path(folder), checkpoints)
            publish(lease, blobs, outcome, lease.latest)
        log.info("job_succeeded", artifacts=len(outcome.outputs))
        return "succeeded", None
    except LostLease:
        raise
    except (Stop, CancelRequested) as error:
        return stopped(job, lease, Cancelled() if isinstance(error, CancelRequested) else error), None
    except Exception as error:
        if away(error):  # the job goes on from its last checkpoint
            log.warning("database_away_for_long", error=type(error).__name__)
            lease.write(lambda session: hand_over(session, job))
            return "lost", None
        fault = error_causes.fault(error)
        # A library whose loading was cut off, say: the stop's doing, not the host's
        if fault is not None and shutdown.requested():
            return stopped(job, lease, HandOver("the worker shuts down")), None
        spoiled = fault is not None and fault.blames
        code, message, retryable = explain(error)
        blamed = code if fault is not None and fault.blames else None
        elsewhere = fault is not None or (code == "internal_error" and not job.failed_on)
        again = elsewhere and job.attempt < job.max_attempts
        log.exception("worker_failed" if fault else "attempt_failed" if again else "job_failed", code=code)
        if fault is not None:
            metrics.faults.labels(code).inc()
        if again:
            lease.write(lambda session: pass_on(session, settings, job, code))
            return "requeued", blamed
        if fault is not None:
            message = fault.last(job.attempt)
        lease.write(lambda session: end(session, job, code, message, retryable))
        return "failed", blamed


def stopped(job: Job, lease: Lease, reason: Stop) -> str:
    """Settle a run that was ended for this reason; how the attempt ended, for the metrics."""
    log.info("job_stopped", reason=type(reason).__name__)
    lease.write(lambda session: settle(session, job, reason))
    return OUTCOMES.get(type(reason), "lost")


def scratch() -> tempfile.TemporaryDirectory[str]:
    """A folder for the run.

    OSError EIO where none can be made, for whatever reason: that is the host's fault.
    """
    try:
        return tempfile.TemporaryDirectory(prefix="expunge-job-", ignore_cleanup_errors=True)
    except OSError as error:
        raise OSError(errno.EIO, f"no folder for temporary files can be made: {error}") from error


def pass_on(session: Session, settings: Settings, job: Job, code: str) -> None:
    """Queued again, the attempt charged, for another worker where there is one."""
    wait, who = (
        wait_before(job.attempt + 1, settings.backoff_seconds),
        str(readiness.me or socket.gethostname()),
    )
    attempts.requeue(session, job.id, job.fence, reason=code, worker=who, wait=wait)


def hand_over(session: Session, job: Job) -> None:
    """Queued again, the attempt charged; or failed when it was the last."""
    if job.attempt < job.max_attempts:
        attempts.release(session, job.id, job.fence, reason="database_away", charged=True)
    else:
        end(
            session,
            job,
            "database_error",
            "the database went away in every attempt: retry the job",
            retryable=True,
        )


def end(session: Session, job: Job, code: str, message: str, retryable: bool) -> None:
    """A failure; or the cancellation that came before it."""
    held = attempts.fail_unless_cancelled(
        session, job.id, job.fence, code=code, message=message, retryable=retryable
    )
    log.info("job_ended", status=held.status)


def explain(error: Exception) -> tuple[str, str, bool]:
    """(code, message, retryable) for the client; anything unforeseen keeps its words for the log."""
    fault = error_causes.fault(error)
    if fault is not None:
        return fault.code, fault.message, True
    if isinstance(error, CoreError):
        return error.code, error.message, error.retryable
    if isinstance(error, BlobExists | CorruptBlob):
        return (
            "storage_error",
            "a stored file was damaged or taken: repair the artifact store, then retry the job",
            True,
        )
    if out_of_memory.out_of_memory(error):
        return (
            "out_of_memory",
            (
                "the run did not fit into memory, nor did half the batch where there is one: lower"
                " method.batch_size or method.lora.rank"
            ),
            False,
        )
    return (
        "internal_error",
        "the run ended with an unforeseen error, which the worker's log has under this job's id",
        False,
    )
