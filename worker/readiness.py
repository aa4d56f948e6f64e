"""Whether this worker takes jobs, in memory that its processes share.

The pool's children, where the attempts run, record how each attempt ended and ask here before they claim a
job. The parent process reads that, and decides (worker/keeper.py).
"""

import mmap
import struct
import time
import uuid

from billiard import current_process

from expunge.store.workers import READY, STARTING, SUSPENDED

STATES = (READY, STARTING, SUSPENDED)  # by number; without a keeper, as in a test, a worker is ready
# Places in the shared memory
STATE, FAILURES = 0, 1  # the state's number; failures in a row
BUSY, POOL_END = 2, 64  # a byte for each process of the pool, 1 while it makes an attempt
LOOKED_AT = 72  # when a child last looked for a job, a double
REASON, REASON_END = 80, 400  # of the last failure, as text
SHARED = mmap.mmap(-1, mmap.PAGESIZE)
WAIT = 0.05  # s, between looks at the state
worker_id: uuid.UUID | None = None  # set by the keeper; its children inherit it


def may_claim(max_failures: int) -> bool:
    """Whether this worker takes jobs; waits for the end of its first self test.

    Called when a message has arrived: the keeper learns from it that the worker still hears.
    """
    note_looked()
    while current_state() == STARTING:
        time.sleep(WAIT)
    return current_state() == READY and failures() < max_failures


def note_looked() -> None:
    struct.pack_into("d", SHARED, LOOKED_AT, time.monotonic())


def note_attempt_started() -> None:
    """An attempt begins in this process."""
    SHARED[place_in_pool()] = 1


def note_attempt_ended(failure: str | None, *, succeeded: bool = False) -> None:
    """An attempt has ended without losing its process; `failure` is set where the worker is to blame."""
    SHARED[place_in_pool()] = 0
    if failure is not None:
        count_failure(failure)
    elif succeeded:
        set_failures(0)


def note_process_replaced() -> None:
    """This process replaces an earlier one: if that died during an attempt, the worker has failed again."""
    if SHARED[place_in_pool()]:
        SHARED[place_in_pool()] = 0
        count_failure("its process died in the middle of an attempt")


def count_failure(reason: str) -> None:
    set_failures(min(255, failures() + 1))
    length = REASON_END - REASON
    SHARED[REASON:REASON_END] = reason.encode()[:length].ljust(length, b"\0")


def place_in_pool() -> int:
    """Where this process's byte is in the shared memory."""
    return BUSY + int(getattr(current_process(), "index", 0)) % (POOL_END - BUSY)


# What the parent reads and sets


def current_state() -> str:
    return STATES[SHARED[STATE]]


def set_state(state: str) -> None:
    SHARED[STATE] = STATES.index(state)


def failures() -> int:
    """Attempts in a row that failed by a fault of the worker."""
    return SHARED[FAILURES]


def set_failures(count: int) -> None:
    SHARED[FAILURES] = count


def last_failure() -> str:
    return bytes(SHARED[REASON:REASON_END]).rstrip(b"\0").decode(errors="ignore")


def looked_at() -> float:
    """When a child last looked for a job, on the monotonic clock."""
    moment: float = struct.unpack_from("d", SHARED, LOOKED_AT)[0]
    return moment


def is_idle() -> bool:
    """Whether no process makes an attempt."""
    return not any(SHARED[BUSY:POOL_END])
