"""The lease on a running job: a thread extends it, and what it learns stops the run at its next callback."""

import contextvars
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, Self, TypeVar

import structlog
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, ProgrammingError
from sqlalchemy.orm import Session

from expunge.store import attempts, db
from expunge.store.errors import LostLease
from expunge.store.models import Job
from expunge.store.queue_recovery import DEADLINE_EXCEEDED
from expunge.store.settings import Settings
from expunge.worker import readiness, shutdown
from expunge.worker.run_telemetry import Pace

log = structlog.get_logger("worker")
MISSING = ("42703", "42P01")  # PostgreSQL's undefined_column and undefined_table
RETRY_SECONDS = 0.5
T = TypeVar("T")


class Stop(Exception):
    """A run is to end at its next callback."""


class Cancelled(Stop):
    """The client cancelled the job."""


class DeadlineExceeded(Stop):
    """The job ran past its run_timeout_s."""


class HandOver(Stop):
    """The worker shuts down; the job goes on elsewhere."""

    event = "worker_shutdown"


class Paused(HandOver):
    """The queue is paused and running jobs are asked for; the job goes on afterwards."""

    event = "queue_paused"


class Lease:
    """Holds a claimed job: core's callback on one side, heartbeats on the other.

    A run that does not stop within `cancel_seconds`, or reports nothing for `stall_seconds`, is ended with
    its process.
    """

    def __init__(self, settings: Settings, job: Job) -> None:
        self.settings, self.job = settings, job
        self.url = settings.database_url.get_secret_value()
        self.length = timedelta(seconds=settings.lease_seconds)
        self.reason: Exception | None = None
        self.asked = self.seen = time.monotonic()
        self.written, self.phase = 0.0, ""
        self.pending: dict[str, Any] | None = None
        self.latest: dict[str, Any] | None = None
        self.checkpointing = False
        self.done = threading.Event()
        self.lock = threading.Lock()
        self.pace = Pace()
        inside = contextvars.copy_context()  # its log lines say whose they are, and hide what the run's do
        self.thread = threading.Thread(
            target=inside.run, args=(self.watch,), name=f"lease-{job.id}", daemon=True
        )

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.thread.join()
        self.pace.end()

    # The run's side

    def __call__(self, report: Mapping[str, Any]) -> None:
        """core's progress callback.

        Raises Cancelled, DeadlineExceeded, HandOver or LostLease to end the run.
        """
        self.seen = time.monotonic()
        self.raise_reason(at_checkpoint=False)
        self.pace(report)
        clean = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in report.items()
        }
        changed = (
            clean.get("phase") != self.phase or "message" in clean or clean.get("step") == clean.get("total")
        )
        with self.lock:
            self.latest = self.pending = clean
            self.phase = str(clean.get("phase"))
        if changed or self.seen - self.written >= self.settings.progress_seconds:
            self.flush()

    def saved(self) -> None:
        """A checkpoint is safe: the best moment to hand over."""
        self.checkpointing = True
        self.seen = time.monotonic()
        self.raise_reason(at_checkpoint=True)

    def seen_now(self) -> None:
        """A sign of life from what reports no progress."""
        self.seen = time.monotonic()

    def raise_reason(self, *, at_checkpoint: bool) -> None:
        if shutdown.requested():
            self.stop(HandOver("the worker shuts down"))
        if self.reason is None:
            return
        # A run that keeps checkpoints is let go on to the next one: for half the shutdown's time, or in a
        # pause, which is in no hurry, for as long as it takes.
        waits = isinstance(self.reason, HandOver) and self.checkpointing and not at_checkpoint
        late = time.monotonic() - self.asked > self.settings.soft_shutdown_seconds / 2
        if not waits or (late and not isinstance(self.reason, Paused)):
            raise self.reason

    def flush(self) -> None:
        """Write the newest report, if it is not yet written. LostLease."""
        with self.lock:
            report, self.pending = self.pending, None
            if report is None:
                return
            try:
                with db.transaction(self.url) as session:
                    attempts.report_progress(session, self.job.id, self.job.fence, report)
                self.written = time.monotonic()
            except DBAPIError as error:
                self.pending = report
                log.warning("progress_unwritten", error=type(error).__name__)

    def write(self, act: Callable[[Session], T]) -> T:
        """`act` in one transaction; again while the database is away, as long as the lease may still be ours.
        LostLease.

        A commit whose answer was lost is repeated, so `act` must find what it has done already.
        """
        until = time.monotonic() + self.settings.lease_seconds
        while True:
            self.seen_now()
            try:
                with db.transaction(self.url) as session:
                    return act(session)
            except DBAPIError as error:
                if not away(error) or time.monotonic() > until:
                    raise
                log.warning("database_away", error=type(error).__name__)
                time.sleep(RETRY_SECONDS)

    # The watch's side

    def watch(self) -> None:
        while not self.done.wait(self.settings.heartbeat_seconds):
            try:
                self.beat()
            except LostLease as error:
                self.stop(error)
            except DBAPIError as error:  # nobody can take the job over while the database is away
                log.warning("heartbeat_unheard", error=type(error).__name__)

    def beat(self) -> None:
        """One heartbeat; ends the process when the run no longer listens."""
        now = time.monotonic()
        if strength(self.reason) > strength(Paused()) and now - self.asked > self.settings.cancel_seconds:
            self.end_process(
                type(self.reason).__name__, lambda session: settle(session, self.job, self.reason)
            )
        if now - self.seen > self.settings.stall_seconds:
            text = (
                f"no progress for {self.settings.stall_seconds:.0f} s: the run is ended and goes on from its"
                " last checkpoint"
            )
            self.end_process(
                "Stalled",
                lambda session: attempts.add_note(session, self.job.id, self.job.fence, "stalled", text),
            )
        with db.transaction(self.url) as session:
            heard = attempts.heartbeat(session, self.job.id, self.job.fence, self.length)
        if heard.cancel_requested:
            self.stop(Cancelled("cancelled by the client"))
        elif heard.past_deadline:
            self.stop(DeadlineExceeded(str(DEADLINE_EXCEEDED["message"])))
        elif heard.hand_over:
            self.stop(Paused("the queue is paused"))
        elif now - self.written >= self.settings.progress_seconds:
            self.flush()

    def stop(self, reason: Exception) -> None:
        """Remember why the run is to end; a later, stronger reason replaces the first."""
        if strength(reason) > strength(self.reason):
            self.reason, self.asked = reason, time.monotonic()
            log.info("run_to_stop", reason=type(reason).__name__)

    def end_process(self, why: str, last: Callable[[Session], object]) -> None:
        """Write the last word, then SIGKILL: a run that does not return cannot be ended otherwise."""
        log.error("run_killed", reason=why)
        readiness.ended("its run reported nothing for too long" if why == "Stalled" else None)
        try:
            with db.transaction(self.url) as session:
                last(session)
        finally:
            os.kill(os.getpid(), signal.SIGKILL)


def away(error: Exception) -> bool:
    """Whether the database is out of reach for a while, or has another release's schema while an upgrade or a
    downgrade goes on.
    """
    missing = isinstance(error, ProgrammingError) and getattr(error.orig, "sqlstate", None) in MISSING
    lost = isinstance(error, DBAPIError) and error.connection_invalidated
    return missing or lost or isinstance(error, OperationalError | InterfaceError)


def strength(reason: Exception | None) -> int:
    """A pause gives way to a shutdown, and both to whatever ends the job or takes it away."""
    return (
        0 if reason is None else 1 if isinstance(reason, Paused) else 2 if isinstance(reason, HandOver) else 3
    )


def settle(session: Session, job: Job, reason: Exception | None) -> None:
    """What a stopped run leaves behind in its row; nothing when the job is another's by now."""
    if isinstance(reason, Cancelled):
        attempts.confirm_cancelled(session, job.id, job.fence)
    elif isinstance(reason, DeadlineExceeded):
        attempts.fail(
            session, job.id, job.fence, code="deadline_exceeded", message=str(reason), retryable=True
        )
    elif isinstance(reason, HandOver):
        attempts.release(session, job.id, job.fence, reason=reason.event)
