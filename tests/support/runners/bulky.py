"""A runner for faults of storage and memory.

spec: steps, every (steps between checkpoints), checkpoint_bytes, file (an existing file that is the output),
wait (waits, silent, for the file `go` before it returns), method.batch_size with fits (the largest batch that
fits into memory), nan (the step at which the loss is none).
"""

import time
from pathlib import Path

from expunge.core.errors import CoreError
from tests.support.step_runner import Outcome, Output


def run(job, folder, *, settings, callback, checkpoints) -> Outcome:
    spec = job.spec
    saved = checkpoints.load_files()
    for step in range(int(saved["step"]) if saved else 0, spec["steps"]):
        if spec.get("nan") == step:
            raise CoreError(
                "loss_not_finite",
                f"the loss became nan at step {step + 1} of {spec['steps']}",
                field="method.learning_rate",
            )
        if "fits" in spec and spec["method"]["batch_size"] > spec["fits"]:
            import torch  # only here: while it loads no heartbeat is sent

            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        callback({"phase": "erase", "step": step + 1, "total": spec["steps"], "loss": 0.5})
        if (step + 1) % spec["every"] == 0:
            checkpoints.save_files(
                step + 1, {"step": str(step + 1).encode(), "bulk": bytes(spec.get("checkpoint_bytes", 1))}
            )
    while spec.get("wait") and not Path(spec["go"]).exists():
        time.sleep(0.02)
    own = folder / "result.bin"
    own.write_text(str(spec.get("method")))
    return Outcome(None, [Output("result.bin", "application/octet-stream", Path(spec.get("file", own)))])
