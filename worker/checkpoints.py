"""core's Checkpoints over the artifact store: bytes first, then a fenced row with their sha256.

A corrupt one gives way to the one before.
"""

import json
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog

from expunge.store import attempts
from expunge.store.blobs import Blobs, output_key
from expunge.store.errors import CorruptBlob, NotFound
from expunge.worker import metrics
from expunge.worker.lease import Lease

if TYPE_CHECKING:
    import torch

STATE, META = "state.safetensors", "meta.json"
log = structlog.get_logger("worker")


class JobCheckpoints:
    """The checkpoints of one job, written by one attempt and read by the next."""

    def __init__(self, lease: Lease, blobs: Blobs, keep: int) -> None:
        self.lease, self.blobs, self.keep = lease, blobs, keep

    def save(self, step: int, tensors: "dict[str, torch.Tensor]", meta: dict[str, Any]) -> None:
        from safetensors.torch import save

        state = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
        self.save_files(step, {STATE: state, META: json.dumps(meta).encode()})

    def load(self) -> "tuple[dict[str, torch.Tensor], dict[str, Any]] | None":
        from safetensors.torch import load

        files = self.load_files()
        return None if files is None else (load(files[STATE]), json.loads(files[META]))

    def save_files(self, step: int, files: dict[str, bytes]) -> None:
        """LostLease when the job is another's; HandOver when the worker is to stop, now that the state is
        safe.
        """
        job, rows, begun = self.lease.job, dict[str, Any](), time.monotonic()
        for name, content in files.items():
            key = output_key(job.tenant_id, job.id, job.attempt, job.fence)
            size, sha256 = self.blobs.put(key, content)
            rows[name] = {"key": key, "sha256": sha256, "size": size}
        stale = self.lease.write(
            partial(
                attempts.add_checkpoint, job_id=job.id, fence=job.fence, step=step, files=rows, keep=self.keep
            )
        )
        metrics.checkpoint_seconds.observe(time.monotonic() - begun)
        self.blobs.delete(stale)
        self.lease.saved()

    def load_files(self) -> dict[str, bytes] | None:
        """The newest intact checkpoint; an event tells of each that is not."""
        rows = self.lease.write(lambda session: attempts.list_checkpoints(session, self.lease.job.id))
        for row in rows:
            try:
                files = {
                    name: self.blobs.read_all(file["key"], file["sha256"]) for name, file in row.files.items()
                }
            except (CorruptBlob, NotFound):
                self.note(
                    "checkpoint_corrupt",
                    f"the checkpoint at step {row.step} is damaged: going back to the one before",
                )
                continue
            self.note("resumed", f"going on from the checkpoint at step {row.step}")
            return files
        return None

    def note(self, code: str, message: str) -> None:
        job = self.lease.job
        log.info(code, message=message)
        self.lease.write(lambda session: attempts.add_note(session, job.id, job.fence, code, message))
