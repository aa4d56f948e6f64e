"""Tells the running task that its worker must stop.

Celery's own soft shutdown waits for its whole timeout and does not tell the task. So SIGTERM keeps its
meaning of a warm shutdown (take nothing new, wait for the task), a byte of shared memory tells the task,
which hands its job over, and a timer limits the wait.
"""

import mmap
import os
import signal
import threading

FLAG = mmap.mmap(-1, 1)  # shared with the pool's processes, which are forked later


def requested() -> bool:
    return FLAG[0] != 0


def request(seconds: float) -> None:
    """Ask the task to hand over; after `seconds` the worker ends it (SIGQUIT: Celery's cold shutdown)."""
    if not requested():
        FLAG[0] = 1
        timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGQUIT))
        timer.daemon = True
        timer.start()
