"""Keeps a worker's state: starting, ready or suspended, in its row in the database and in shared memory.

The parent process tests the host (worker/self_test.py), writes the row with every heartbeat, and listens to
the broker only while the worker is ready. After several failures in a row by a fault of the worker
(worker/readiness.py) it is suspended, and takes jobs again once a self test passes. From then on one more
failure suspends it again, for twice as long, until an attempt succeeds.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import structlog
from sqlalchemy.exc import SQLAlchemyError

from expunge.store import db, workers
from expunge.store.queue_announcements import QUEUE, recently_announced
from expunge.store.settings import Settings
from expunge.store.workers import READY, STARTING, SUSPENDED, WorkerReport
from expunge.worker import dispatcher, readiness
from expunge.worker.self_test import SelfTest

log = structlog.get_logger("worker")
TICK = 0.2  # s
LONGEST_PAUSE, LONGEST_TEST = 300.0, 180.0  # s

# A child forked while the parent's thread holds a lock, of a log or a connection pool, would wait for it
# forever: so the parent forks only while that thread rests.
WORKING = threading.Lock()
os.register_at_fork(before=WORKING.acquire, after_in_parent=WORKING.release, after_in_child=WORKING.release)


class Keeper:
    """Keeps this worker's state, in a thread of the parent process. Times are of the monotonic clock."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.url = settings, settings.database_url.get_secret_value()
        self.row = WorkerReport(uuid.uuid4(), socket.gethostname(), os.getpid(), installed_version())
        self.next_heartbeat = 0.0

        # The self test that runs, and when and after which pause the next one starts.
        self.test: subprocess.Popen[str] | None = None
        self.test_started, self.next_test = 0.0, 0.0
        self.pause = settings.self_test_seconds
        self.passed: SelfTest | None = None  # whose result is not yet written to the row

        # Celery's consumer, once there is one, and since when no child has looked for announced jobs.
        self.consumer: Any = None
        self.missing_since: float | None = None

        self.over = threading.Event()
        self.thread = threading.Thread(target=self.keep, name="keeper", daemon=True)

    def start(self) -> None:
        """Called before the pool is made, so that its first child waits for the first test."""
        readiness.worker_id = self.row.id
        self.set_state(STARTING)
        readiness.note_looked()
        self.thread.start()

    def listen(self, consumer: Any) -> None:
        """From now on Celery's consumer listens while the worker is ready, and only then."""
        self.consumer = consumer
        if self.row.state == SUSPENDED:
            consumer.call_soon(consumer.cancel_task_queue, QUEUE)

    def stop(self) -> None:
        self.over.set()
        self.thread.join(10)
        if self.test is not None:
            self.test.kill()
        self.guard("worker_row_not_deleted", self.delete_row)

    # The thread

    def keep(self) -> None:
        while not self.over.is_set():
            self.guard("worker_row_not_written", self.turn)
            self.over.wait(TICK)

    def guard(self, event: str, act: Callable[[], object]) -> None:
        """Act; log an error as `event`. It costs a turn, never the thread: the database may be unreachable,
        or the host unable to start a test.
        """
        # Held until the error is logged: a child forked while a line is written could never write one.
        with WORKING:
            try:
                act()
                return
            except SQLAlchemyError as error:
                log.warning(event, error=type(error).__name__)
            except Exception:
                log.exception(event)
        self.over.wait(1)

    def turn(self) -> None:
        now = time.monotonic()
        failures = readiness.failures()
        if self.row.state == READY and failures >= self.settings.suspend_after_failures:
            why = f"{failures} attempts in a row failed by a fault of the worker; the last one because"
            self.suspend(f"{why} {readiness.last_failure()}")
        elif self.row.state == READY and failures == 0:
            self.pause = self.settings.self_test_seconds
        if self.passed is not None:
            self.resume(self.passed)
        elif self.test is not None:
            self.check_test(self.test, now)
        elif self.row.state != READY and now >= self.next_test:
            self.start_test(now)
        if now >= self.next_heartbeat:
            self.send_heartbeat(now)

    # The row

    def write_row(self, row: WorkerReport) -> None:
        lease = timedelta(seconds=self.settings.lease_seconds)
        with db.transaction(self.url) as session:
            workers.record_heartbeat(session, row, lease)

    def delete_row(self) -> None:
        with db.transaction(self.url) as session:
            workers.delete_worker(session, self.row.id)

    def send_heartbeat(self, now: float) -> None:
        """Write the row; end this worker where messages no longer reach it."""
        self.write_row(self.row)
        self.next_heartbeat = now + self.settings.heartbeat_seconds
        if self.is_deaf(now):
            log.error(
                "worker_deaf",
                seconds=self.settings.deaf_seconds,
                action="this worker exits; whatever started it starts it again",
            )
            self.delete_row()
            os._exit(1)  # its pool, which is idle, ends with it

    def is_deaf(self, now: float) -> bool:
        """Whether jobs for this worker have been announced for `deaf_seconds`, while it was idle and ready
        and looked for none.
        """
        looked = readiness.looked_at()
        rests = self.row.state == READY and readiness.is_idle()
        if not rests or now - looked <= self.settings.heartbeat_seconds or not self.has_announced_jobs():
            self.missing_since = None
        elif self.missing_since is None or looked > self.missing_since:
            self.missing_since = now
        return self.missing_since is not None and now - self.missing_since > self.settings.deaf_seconds

    def has_announced_jobs(self) -> bool:
        within = timedelta(seconds=self.settings.deaf_seconds)
        with db.transaction(self.url) as session:
            return recently_announced(session, self.row.models, within)

    # States

    def set_state(self, state: str, reason: str | None = None) -> None:
        """Tell the children at once, and the database with a heartbeat that is due now."""
        self.row.state, self.row.reason = state, reason
        self.next_heartbeat = 0.0
        readiness.set_state(state)

    def suspend(self, reason: str) -> None:
        log.error("worker_suspended", reason=reason, test_in_seconds=self.pause)
        self.set_state(SUSPENDED, reason)
        self.next_test = time.monotonic() + self.pause
        self.pause = min(LONGEST_PAUSE, self.pause * 2)
        if self.consumer is not None:
            self.consumer.call_soon(self.consumer.cancel_task_queue, QUEUE)

    def resume(self, result: SelfTest) -> None:
        """The test has passed: be ready. While the database is unreachable, this is tried again each turn."""
        was_suspended = self.row.state == SUSPENDED
        names = dict.fromkeys(filter(None, (self.settings.device, result.device)))
        device = ", ".join(names) or None

        # The row comes first, as a child looks there for its models.
        ready = replace(
            self.row, state=READY, reason=None, device=device, models=result.models, problems=result.problems
        )
        self.write_row(ready)
        self.row, self.passed = ready, None
        for name, problem in result.problems.items():
            log.warning("model_unusable", model=name, problem=problem)
        log.info("worker_ready", device=device, models=result.models, again=was_suspended)

        # After a suspension one more failure suspends it again.
        if was_suspended:
            readiness.set_failures(self.settings.suspend_after_failures - 1)
        self.set_state(READY)
        if was_suspended and self.consumer is not None:
            self.consumer.call_soon(self.consumer.add_task_queue, QUEUE)
        dispatcher.announce_next(self.settings)

    # Self tests

    def start_test(self, now: float) -> None:
        command = [sys.executable, "-m", "expunge.worker.self_test"]
        if tempfile.tempdir:
            command.append(str(tempfile.tempdir))
        # With Python's own copy of the environment: Celery renames its processes, which moves C's meanwhile.
        self.test = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=dict(os.environ),
        )
        self.test_started = now

    def check_test(self, test: subprocess.Popen[str], now: float) -> None:
        """Act on the test's result, once there is one; kill a test that hangs."""
        if test.poll() is None and now - self.test_started < LONGEST_TEST:
            return
        if test.poll() is None:
            test.kill()
        out, err = test.communicate()
        self.test = None
        result = parse_result(out)
        if result is None:
            self.suspend(f"self test: it ended with code {test.returncode}: {err.strip()[-300:]}")
        elif result.trouble:
            self.suspend(f"self test: {'; '.join(result.trouble)}")
        else:
            self.passed = result


def parse_result(out: str) -> SelfTest | None:
    """The test's last line; None where it printed no result."""
    try:
        return SelfTest(**json.loads(out.strip().splitlines()[-1]))
    except (ValueError, TypeError, IndexError):
        return None


def installed_version() -> str:
    try:
        return version("expunge")
    except PackageNotFoundError:
        return "0"
