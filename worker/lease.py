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
from expunge.worker.run_telemetry import RunTelemetry
from expunge.worker.stop import Cancelled, DeadlineExceeded, HandOver, Paused, settle, strength

log = structlog.get_logger("worker")
MISSING = ("42703", "42P01")  # PostgreSQL's undefined_column and undefined_table
RETRY_SECONDS = 0.5
T = TypeVar("T")


class Lease:
    """Holds a claimed job: core's callback on one side, heartbeats on the other.

    A run that does not stop within `cancel_seconds`, or reports nothing for `stall_seconds`, is ended by
    killing its process.
    """

    def __init__(self, settings: Settings, job: Job) -> None:
        self.settings, self.job = settings, job
        self.url = settings.database_url.get_secret_value()
        self.length = timedelta(seconds=settings.lease_seconds)

        # Why the run must stop, and since when; all times are of the monotonic clock.
        self.reason: Exception | None = None
        self.stop_requested_at = self.reported_at = time.monotonic()

        # Progress: the newest report, and the part of it that is not yet written.
        self.latest: dict[str, Any] | None = None
        self.pending: dict[str, Any] | None = None
        self.flushed_at, self.phase = 0.0, ""
        self.checkpointing = False
        self.lock = threading.Lock()
        self.telemetry = RunTelemetry()

        self.done = threading.Event()
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
        self.telemetry.end()

    # The run's side

    def __call__(self, report: Mapping[str, Any]) -> None:
        """core's progress callback.

        Raises: Cancelled, DeadlineExceeded, HandOver or LostLease, to end the run.
        """
        self.note_alive()
        self.raise_reason(at_checkpoint=False)
        self.telemetry(report)
        clean = {key: value if is_finite(value) else None for key, value in report.items()}
        is_last = clean.get("step") == clean.get("total")
        is_news = is_last or "message" in clean or clean.get("phase") != self.phase
        with self.lock:
            self.latest = self.pending = clean
            self.phase = str(clean.get("phase"))
        if is_news or self.reported_at - self.flushed_at >= self.settings.progress_seconds:
            self.flush()

    def note_alive(self) -> None:
        """Count as progress what sends no report: an upload, a commit."""
        self.reported_at = time.monotonic()

    def note_checkpoint(self) -> None:
        """A checkpoint is stored: the best moment to hand the job over.

        Raises: as the callback.
        """
        self.checkpointing = True
        self.note_alive()
        self.raise_reason(at_checkpoint=True)

    def raise_reason(self, *, at_checkpoint: bool) -> None:
        if shutdown.requested():
            self.request_stop(HandOver("the worker shuts down"))
        if self.reason is None:
            return
        # A run that keeps checkpoints may go on to the next one: for half of the time that a shutdown has, or
        # for as long as it takes in a pause, which is not urgent.
        waits = isinstance(self.reason, HandOver) and self.checkpointing and not at_checkpoint
        late = time.monotonic() - self.stop_requested_at > self.settings.soft_shutdown_seconds / 2
        if not waits or (late and not isinstance(self.reason, Paused)):
            raise self.reason

    def flush(self) -> None:
        """Write the newest report, unless it is written. Raises: LostLease."""
        with self.lock:
            report, self.pending = self.pending, None
            if report is None:
                return
            try:
                with db.transaction(self.url) as session:
                    attempts.report_progress(session, self.job.id, self.job.fence, report)
                self.flushed_at = time.monotonic()
            except DBAPIError as error:
                self.pending = report
                log.warning("progress_not_written", error=type(error).__name__)

    def write(self, act: Callable[[Session], T]) -> T:
        """Run `act` in one transaction, again while the database is unreachable and the lease may still be
        ours.

        A commit whose answer was lost is repeated, so `act` must find what it has done already. Raises:
        LostLease.
        """
        until = time.monotonic() + self.settings.lease_seconds
        while True:
            self.note_alive()
            try:
                with db.transaction(self.url) as session:
                    return act(session)
            except DBAPIError as error:
                if not is_unreachable(error) or time.monotonic() > until:
                    raise
                log.warning("database_unreachable", error=type(error).__name__)
                time.sleep(RETRY_SECONDS)

    # The thread's side

    def watch(self) -> None:
        while not self.done.wait(self.settings.heartbeat_seconds):
            try:
                self.send_heartbeat()
            except LostLease as error:
                self.request_stop(error)
            except DBAPIError as error:  # while the database is unreachable, nobody can take the job over
                log.warning("heartbeat_failed", error=type(error).__name__)

    def send_heartbeat(self) -> None:
        """One heartbeat; kills the process when the run no longer listens."""
        now = time.monotonic()

        # A run that should have stopped by now, or reports nothing, cannot be ended from inside.
        overdue = now - self.stop_requested_at > self.settings.cancel_seconds
        if overdue and strength(self.reason) > strength(Paused()):
            self.kill_process(
                type(self.reason).__name__, lambda session: settle(session, self.job, self.reason)
            )
        if now - self.reported_at > self.settings.stall_seconds:
            self.kill_process("Stalled", self.note_stalled)

        # Extend the lease, and learn what the service wants.
        with db.transaction(self.url) as session:
            answer = attempts.heartbeat(session, self.job.id, self.job.fence, self.length)
        if answer.cancel_requested:
            self.request_stop(Cancelled("cancelled by the client"))
        elif answer.past_deadline:
            self.request_stop(DeadlineExceeded(str(DEADLINE_EXCEEDED["message"])))
        elif answer.hand_over:
            self.request_stop(Paused("the queue is paused"))
        elif now - self.flushed_at >= self.settings.progress_seconds:
            self.flush()

    def request_stop(self, reason: Exception) -> None:
        """Remember why the run must end; a later, stronger reason replaces the first."""
        if strength(reason) > strength(self.reason):
            self.reason, self.stop_requested_at = reason, time.monotonic()
            log.info("stop_requested", reason=type(reason).__name__)

    def note_stalled(self, session: Session) -> None:
        text = (
            f"no progress for {self.settings.stall_seconds:.0f} s: the run is ended and goes on from its last"
            " checkpoint"
        )
        attempts.add_note(session, self.job.id, self.job.fence, "stalled", text)

    def kill_process(self, why: str, write_end: Callable[[Session], object]) -> None:
        """Write the end, then SIGKILL: a run that does not return cannot be ended otherwise."""
        log.error("run_killed", reason=why)
        readiness.note_attempt_ended("its run reported nothing for too long" if why == "Stalled" else None)
        try:
            with db.transaction(self.url) as session:
                write_end(session)
        finally:
            os.kill(os.getpid(), signal.SIGKILL)


def is_finite(value: object) -> bool:
    """Whether JSON can hold it: everything but NaN and infinity."""
    return not isinstance(value, float) or math.isfinite(value)


def is_unreachable(error: Exception) -> bool:
    """Whether the database cannot be reached for a while, or has another release's schema while an upgrade or
    a downgrade goes on.
    """
    missing = isinstance(error, ProgrammingError) and getattr(error.orig, "sqlstate", None) in MISSING
    lost = isinstance(error, DBAPIError) and error.connection_invalidated
    return missing or lost or isinstance(error, OperationalError | InterfaceError)
