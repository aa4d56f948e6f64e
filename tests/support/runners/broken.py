"""A runner on a host that is broken while a file says so: BROKEN names a folder, in which `run` breaks runs
with its text, `test` the self test.

spec: wants (text of an error that is the job's, wherever it runs).
"""

import os
from pathlib import Path

from expunge.worker import shutdown
from tests.support.cluster import until
from tests.support.step_runner import run as steps

BROKEN = Path(os.environ["BROKEN"])


def run(job, folder, *, settings, callback, checkpoints):
    if (BROKEN / "loading").exists():  # a library, which says so when its loading is cut off
        (BROKEN / "loading").unlink()
        until(shutdown.requested)
        raise ImportError("initialization failed")
    if (BROKEN / "run").exists():
        raise RuntimeError((BROKEN / "run").read_text())
    if "wants" in job.spec:
        raise ValueError(job.spec["wants"])
    return steps(job, folder, settings=settings, callback=callback, checkpoints=checkpoints)


def self_test() -> str:
    if (BROKEN / "test").exists():
        raise RuntimeError((BROKEN / "test").read_text())
    return "a device of tests"
