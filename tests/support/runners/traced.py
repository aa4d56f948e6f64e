"""A runner of two phases, each of a few steps."""

from tests.support.step_runner import Outcome, Output


def run(job, folder, *, settings, callback, checkpoints) -> Outcome:
    for phase in ("load", "erase"):
        for step in range(4):
            callback(
                {
                    "phase": phase,
                    "step": step,
                    "total": 3,
                    "loss": 0.5,
                    "target": job.spec["concepts"][0]["target"],
                }
            )
    (folder / "out").write_bytes(b"x")
    return Outcome(None, [Output("out", "application/octet-stream", folder / "out")])
