"""A worker's standing: whether it takes jobs, and what its row in the database says of it.

The parent process tests the host (worker/self_test.py), writes the row with every heartbeat and listens to
the broker only while the worker is ready. The pool's children, where the attempts are, tell it through shared
memory how they end: after so many failures in a row for the worker's own sake it is suspended, and takes jobs
again once a self test passes. From then on one more failure suspends it anew, for twice as long, until an
attempt succeeds.
"""

import json
import mmap
import os
import socket
import struct
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
from billiard import current_process
from sqlalchemy.exc import SQLAlchemyError

from expunge.store import db, workers
from expunge.store.queue_announcements import QUEUE, recently_announced
from expunge.store.settings import Settings
from expunge.store.workers import READY, STARTING, SUSPENDED, WorkerReport
from expunge.worker import dispatcher
from expunge.worker.self_test import Found

log = structlog.get_logger("worker")
STATES = (READY, STARTING, SUSPENDED)  # by number; where nobody keeps a standing, as in a test, all is well
STATE, FAILURES, BUSY, PLACES, LOOKED, REASON, END = 0, 1, 2, 64, 72, 80, 400  # places in the shared memory
SHARED = mmap.mmap(-1, mmap.PAGESIZE)
TICK = 0.2  # s
LONGEST_PAUSE, LONGEST_TEST = 300.0, 180.0  # s
me: uuid.UUID | None = None  # this worker; its children inherit it

# A child that is forked while the parent's thread holds a lock, of a log or a pool of connections, would wait
# for it for ever.
WORKING = threading.Lock()
os.register_at_fork(before=WORKING.acquire, after_in_parent=WORKING.release, after_in_child=WORKING.release)


# The children's side


def may_claim(limit: int) -> bool:
    """Whether this worker takes jobs; waits for the end of its first self test.

    Whoever asks has heard a bell.
    """
    struct.pack_into("d", SHARED, LOOKED, time.monotonic())
    while state() == STARTING:
        time.sleep(TICK / 4)
    return state() == READY and SHARED[FAILURES] < limit


def begun() -> None:
    """An attempt begins in this process."""
    SHARED[place()] = 1


def ended(failure: str | None, *, succeeded: bool = False) -> None:
    """An attempt has ended in good order: in success, for its own reasons, or for the worker's sake
    (`failure` says how).
    """
    SHARED[place()] = 0
    if failure is not None:
        failed(failure)
    elif succeeded:
        SHARED[FAILURES] = 0


def replaced() -> None:
    """This process takes the place of one before; when that died in the middle of an attempt, the worker has
    failed once more.
    """
    if SHARED[place()]:
        SHARED[place()] = 0
        failed("its process died in the middle of an attempt")


def failed(reason: str) -> None:
    SHARED[FAILURES] = min(255, SHARED[FAILURES] + 1)
    SHARED[REASON:END] = reason.encode()[: END - REASON].ljust(END - REASON, b"\0")


def place() -> int:
    """Of this process in the pool, in the shared memory."""
    return BUSY + int(getattr(current_process(), "index", 0)) % (PLACES - BUSY)


def state() -> str:
    return STATES[SHARED[STATE]]


# The parent's side


class Keeper:
    """Keeps this worker's standing, in a thread of the parent process."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.url = settings, settings.database_url.get_secret_value()
        self.row = WorkerReport(uuid.uuid4(), socket.gethostname(), os.getpid(), own_version())
        self.pause, self.test_at, self.beat_at = settings.self_test_seconds, 0.0, 0.0
        self.test: subprocess.Popen[str] | None = None
        self.test_begun = 0.0
        self.passed: Found | None = None  # by a test, and not yet written
        self.called_since: float | None = (
            None  # since when jobs have been announced that it has not looked for
        )
        self.consumer: Any = None  # Celery's, once it listens
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.keep, name="standing", daemon=True)

    def start(self) -> None:
        """Before the pool is made, so that its first child waits for the first test."""
        global me
        me = self.row.id
        self.tell(STARTING)
        struct.pack_into("d", SHARED, LOOKED, time.monotonic())
        self.thread.start()

    def listen(self, consumer: Any) -> None:
        """Celery's consumer is there: from now on the worker listens while it is ready."""
        self.consumer = consumer
        if self.row.state == SUSPENDED:
            consumer.call_soon(consumer.cancel_task_queue, QUEUE)

    def stop(self) -> None:
        self.over.set()
        self.thread.join(10)
        if self.test is not None:
            self.test.kill()
        self.guarded(
            "row_left", lambda: self.written(lambda session: workers.delete_worker(session, self.row.id))
        )

    def keep(self) -> None:
        while not self.over.is_set():
            self.guarded("standing_unwritten", self.turn)
            self.over.wait(TICK)

    def guarded(self, event: str, act: Callable[[], object]) -> None:
        """An error costs a turn, never the thread: a database that is away, which claims need too, or a host
        that can start no test.
        """
        # To the end of what is logged: a child that is forked while a line is written could never write one.
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
        if self.row.state == READY and SHARED[FAILURES] >= self.settings.suspend_after_failures:
            self.suspend(
                f"{SHARED[FAILURES]} attempts in a row failed for the worker's sake, the last because"
                f" {said()}"
            )
        elif self.row.state == READY and SHARED[FAILURES] == 0:
            self.pause = self.settings.self_test_seconds
        if self.passed is not None:
            self.resume(self.passed)
        elif self.test is not None:
            self.look_at_test(now)
        elif self.row.state != READY and now >= self.test_at:
            self.begin_test(now)
        if now >= self.beat_at:
            self.beat(now)

    def beat(self, now: float) -> None:
        self.written(lambda session: workers.record_heartbeat(session, self.row, self.lease()))
        self.beat_at = now + self.settings.heartbeat_seconds
        if self.deaf(now):
            log.error(
                "worker_deaf",
                seconds=self.settings.deaf_seconds,
                action="this worker ends; whatever started it starts it again",
            )
            self.written(lambda session: workers.delete_worker(session, self.row.id))
            os._exit(1)  # its pool, which is idle, ends with it

    def deaf(self, now: float) -> bool:
        """Whether jobs for this worker have been announced all the while since it last looked for one, though
        it is idle and ready.
        """
        looked = struct.unpack_from("d", SHARED, LOOKED)[0]
        idle = (
            self.row.state == READY
            and not any(SHARED[BUSY:PLACES])
            and now - looked > self.settings.heartbeat_seconds
        )
        within = timedelta(seconds=self.settings.deaf_seconds)
        if not idle or not self.written(lambda session: recently_announced(session, self.row.models, within)):
            self.called_since = None
        elif self.called_since is None or looked > self.called_since:
            self.called_since = now
        return self.called_since is not None and now - self.called_since > self.settings.deaf_seconds

    def lease(self) -> timedelta:
        return timedelta(seconds=self.settings.lease_seconds)

    def written(self, act: Callable[[Any], Any]) -> Any:
        with db.transaction(self.url) as session:
            return act(session)

    # States

    def tell(self, state: str, reason: str | None = None) -> None:
        """To the children at once, to the database with the next heartbeat, which is due now."""
        self.row.state, self.row.reason, self.beat_at = state, reason, 0.0
        SHARED[STATE] = STATES.index(state)

    def suspend(self, reason: str) -> None:
        log.error("worker_suspended", reason=reason, test_in_seconds=self.pause)
        self.tell(SUSPENDED, reason)
        self.test_at, self.pause = time.monotonic() + self.pause, min(LONGEST_PAUSE, self.pause * 2)
        if self.consumer is not None:
            self.consumer.call_soon(self.consumer.cancel_task_queue, QUEUE)

    def resume(self, found: Found) -> None:
        """The test has passed. The row comes first, as a child looks there for its models; while the database
        is away this is tried again.
        """
        again, device = (
            self.row.state == SUSPENDED,
            ", ".join(dict.fromkeys(filter(None, (self.settings.device, found.device)))) or None,
        )
        ready = replace(
            self.row, state=READY, reason=None, device=device, models=found.models, problems=found.problems
        )
        self.written(lambda session: workers.record_heartbeat(session, ready, self.lease()))
        self.row, self.passed = ready, None
        for name, problem in found.problems.items():
            log.warning("model_unusable", model=name, problem=problem)
        log.info("worker_ready", device=device, models=found.models, again=again)
        if again:
            SHARED[FAILURES] = self.settings.suspend_after_failures - 1
        self.tell(READY)
        if again and self.consumer is not None:
            self.consumer.call_soon(self.consumer.add_task_queue, QUEUE)
        dispatcher.ring_on(self.settings)

    # Tests

    def begin_test(self, now: float) -> None:
        argv, pipe = (
            [sys.executable, "-m", "expunge.worker.self_test", *filter(None, [tempfile.tempdir])],
            subprocess.PIPE,
        )
        # Of Python's own copy of the environment: Celery names its processes, and moves C's meanwhile.
        self.test = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True, env=dict(os.environ)
        )
        self.test_begun = now

    def look_at_test(self, now: float) -> None:
        assert self.test is not None
        if self.test.poll() is None and now - self.test_begun < LONGEST_TEST:
            return
        if self.test.poll() is None:
            self.test.kill()
        out, err = self.test.communicate()
        test, self.test = self.test, None
        found = read(out)
        if found is not None and not found.trouble:
            self.passed = found
        else:
            why = (
                "; ".join(found.trouble)
                if found
                else f"the self test ended with code {test.returncode}: {err.strip()[-300:]}"
            )
            self.suspend(f"self test: {why}")


def said() -> str:
    return bytes(SHARED[REASON:END]).rstrip(b"\0").decode(errors="ignore")


def read(out: str) -> Found | None:
    """The test's last line."""
    try:
        return Found(**json.loads(out.strip().splitlines()[-1]))
    except (ValueError, TypeError, IndexError):
        return None


def own_version() -> str:
    try:
        return version("expunge")
    except PackageNotFoundError:
        return "0"
