"""A tiny job, for EXPUNGE_RUNNER: as many progress reports as its method has steps, then one artifact of
random bytes. No torch.

The label `kib` says how large the artifact is (1). Where LOAD_FOLDER has a file `hold`, a run waits in its
first step until it is gone.
"""

import os
import random
import time
from pathlib import Path
from typing import Any

from expunge.core.outcome import Outcome, Output

NAME = "tiny.bin"


def run(job: Any, folder: Path, *, callback: Any, **_: Any) -> Outcome:
    steps, hold = job.spec["method"]["steps"], Path(os.environ["LOAD_FOLDER"]) / "hold"
    for step in range(steps):
        while hold.exists():
            callback({"phase": "erase", "step": step, "total": steps})
            time.sleep(0.05)
        callback({"phase": "erase", "step": step + 1, "total": steps, "message": f"step {step + 1}"})
    path = folder / NAME
    path.write_bytes(random.randbytes(1024 * int(job.spec["labels"].get("kib", 1))))
    return Outcome({"passed": True}, [Output(NAME, "application/octet-stream", path)])
