"""core's Checkpoints in the artifact store: bytes first, then a fenced row with their sha256.

Where the newest checkpoint is corrupt, the one before it is used.
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
        self.lease, self.blobs = lease, blobs
        self.keep = keep  # how many of the newest

    def save(self, step: int, tensors: "dict[str, torch.Tensor]", meta: dict[str, Any]) -> None:
        from safetensors.torch import save

        state = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
        self.save_files(step, {STATE: state, META: json.dumps(meta).encode()})

    def load(self) -> "tuple[dict[str, torch.Tensor], dict[str, Any]] | None":
        from safetensors.torch import load

        files = self.load_files()
        return None if files is None else (load(files[STATE]), json.loads(files[META]))

    def save_files(self, step: int, files: dict[str, bytes]) -> None:
        """Store a checkpoint, and delete those that are no longer kept.

        Raises: LostLease where the job is another worker's; a Stop where the run must stop, now that its
        state is stored.
        """
        job, started = self.lease.job, time.monotonic()
        rows = dict[str, Any]()
        for name, content in files.items():
            key = output_key(job.tenant_id, job.id, job.attempt, job.fence)
            size, sha256 = self.blobs.put(key, content)
            rows[name] = {"key": key, "sha256": sha256, "size": size}
        stale = self.lease.write(
            partial(
                attempts.add_checkpoint, job_id=job.id, fence=job.fence, step=step, files=rows, keep=self.keep
            )
        )
        metrics.checkpoint_seconds.observe(time.monotonic() - started)
        self.blobs.delete(stale)
        self.lease.note_checkpoint()

    def load_files(self) -> dict[str, bytes] | None:
        """The newest intact checkpoint; each damaged one is noted as an event."""
        rows = self.lease.write(lambda session: attempts.list_checkpoints(session, self.lease.job.id))
        for row in rows:
            files = dict[str, bytes]()
            try:
                for name, file in row.files.items():
                    files[name] = self.blobs.read_all(file["key"], file["sha256"])
            except (CorruptBlob, NotFound):
                message = f"the checkpoint at step {row.step} is damaged: going back to the one before"
                self.note("checkpoint_corrupt", message)
                continue
            self.note("resumed", f"going on from the checkpoint at step {row.step}")
            return files
        return None

    def note(self, code: str, message: str) -> None:
        """Add an event to the job, and a line to the log."""
        job = self.lease.job
        log.info(code, message=message)
        self.lease.write(lambda session: attempts.add_note(session, job.id, job.fence, code, message))
