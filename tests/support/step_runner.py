"""A runner for tests of the worker: it hashes its way through steps, checkpoints, and can be held, hung or
broken by its spec.

spec: steps, every (steps between checkpoints), trace (a file that gets "attempt step" lines), hold (step at
which it waits for the file `go`), hang (waits without reporting), raises (code of a CoreError), crash (exits
the process without a word at this step). A spec that came through POST /jobs/erase says the same with its
method's `steps` and `checkpoint_every` and its labels; STEPS_FOLDER then has `trace` and `go`.
"""

import hashlib
import os
import select
from pathlib import Path
from typing import Any

from expunge.core.errors import CoreError
from expunge.core.outcome import Outcome, Output


def digest(steps: int) -> bytes:
    """What an undisturbed run of so many steps ends in."""
    state = b"start"
    for step in range(steps):
        state = advance(state, step)
    return state


def advance(state: bytes, step: int) -> bytes:
    return hashlib.sha256(state + str(step).encode()).digest()


def asked(spec: dict[str, Any]) -> dict[str, Any]:
    if "steps" in spec:
        return spec
    shared = {name: os.path.join(os.environ["STEPS_FOLDER"], name) for name in ("trace", "go")}
    labels = {name: int(value) for name, value in spec["labels"].items() if value.isdigit()}
    return {"steps": spec["method"]["steps"], "every": spec["method"]["checkpoint_every"], **shared, **labels}


def pause(seconds: float) -> None:
    """time.sleep fails now and then under libfaketime."""
    select.select([], [], [], seconds)


def run(job, folder, *, settings, callback, checkpoints) -> Outcome:
    spec = asked(job.spec)
    saved = checkpoints.load_files() or {"step": b"0", "state": b"start"}
    state = saved["state"]
    for step in range(int(saved["step"]), spec["steps"]):
        with Path(spec["trace"]).open("a") as trace:
            trace.write(f"{job.attempt} {step}\n")
        if spec.get("raises") == step:
            raise CoreError(
                "loss_not_finite",
                "the loss became nan: lower method.learning_rate",
                field="method.learning_rate",
            )
        if spec.get("breaks") == step:
            raise RuntimeError("secret detail of the inside")
        if spec.get("crash") == step:
            os._exit(1)
        state = advance(state, step)
        if (step + 1) % spec.get("every", 10) == 0:
            checkpoints.save_files(step + 1, {"state": state, "step": str(step + 1).encode()})
        callback(
            {
                "phase": "erase",
                "step": step + 1,
                "total": spec["steps"],
                "loss": float("nan") if step == 0 else 0.5,
            }
        )
        if "pause_ms" in spec:
            pause(spec["pause_ms"] / 1000)
        while spec.get("hold") == step + 1 and not Path(spec["go"]).exists():
            if not spec.get("hang"):
                callback({"phase": "erase", "step": step + 1, "total": spec["steps"]})
            pause(0.02)
    (folder / "result.bin").write_bytes(state)
    return Outcome(
        {"passed": True}, [Output("result.bin", "application/octet-stream", folder / "result.bin")]
    )
