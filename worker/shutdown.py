"""Tells the running task that its worker is to stop.

Celery's own soft shutdown waits out its whole timeout and tells the task nothing. So SIGTERM keeps Celery's
warm meaning (take nothing new, wait for the task), the task hears of it through a byte of shared memory and
hands its job over, and a timer bounds the wait.
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
