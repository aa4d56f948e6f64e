"""Why a run is stopped at its next callback, which reason wins, and what it leaves in the job's row."""

from sqlalchemy.orm import Session

from expunge.store import attempts
from expunge.store.models import Job


class Stop(Exception):
    """A run must end at its next callback. `outcome` is how the attempt counts in the metrics."""

    outcome = "lost"


class Cancelled(Stop):
    """The client cancelled the job."""

    outcome = "cancelled"


class DeadlineExceeded(Stop):
    """The job ran past its run_timeout_s."""

    outcome = "failed"


class HandOver(Stop):
    """The worker shuts down; the job goes on elsewhere."""

    outcome = "handed_over"
    event = "worker_shutdown"


class Paused(HandOver):
    """The queue is paused, and running jobs were to pause too; the job goes on afterwards."""

    event = "queue_paused"


def strength(reason: Exception | None) -> int:
    """Rank of a reason: a pause gives way to a shutdown, and both to whatever ends the job or takes it
    away.
    """
    match reason:
        case None:
            return 0
        case Paused():
            return 1
        case HandOver():
            return 2
    return 3


def settle(session: Session, job: Job, reason: Exception | None) -> None:
    """Write what a stopped run leaves in its row; nothing where the job is another worker's by now."""
    match reason:
        case Cancelled():
            attempts.confirm_cancelled(session, job.id, job.fence)
        case DeadlineExceeded():
            attempts.fail(
                session, job.id, job.fence, code="deadline_exceeded", message=str(reason), retryable=True
            )
        case HandOver():
            attempts.release(session, job.id, job.fence, reason=reason.event)
