"""Where a run's state is kept, so that a killed run goes on where it was: the protocol, and a folder for
notebooks.

A worker's checkpoints, in the artifact store, are in `worker/checkpoints.py`.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file, save_file

State = tuple[dict[str, torch.Tensor], dict[str, Any]]
"""Tensors, and facts that JSON can hold."""

TENSORS, FACTS, MANIFEST = "state.safetensors", "meta.json", "manifest.json"


class Checkpoints(Protocol):
    """Where a run keeps its state."""

    def save(self, step: int, tensors: dict[str, torch.Tensor], meta: dict[str, Any]) -> None:
        """Keep the state after `step`."""

    def load(self) -> State | None:
        """The newest intact state; None where there is none."""


class DirectoryCheckpoints:
    """Checkpoints in a folder, for notebooks and scripts. Each is written aside, synced, sealed with the
    sha256 of its files, and renamed into place; the last `keep` are kept.
    """

    def __init__(self, folder: str | Path, keep: int = 2) -> None:
        self.folder, self.keep = Path(folder), keep
        self.folder.mkdir(parents=True, exist_ok=True)

    def save(self, step: int, tensors: dict[str, torch.Tensor], meta: dict[str, Any]) -> None:
        """Write a checkpoint, and delete those older than the last `keep`."""
        # Written aside
        aside = self.folder / f"tmp-{os.getpid()}"
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
        save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, aside / TENSORS)
        (aside / FACTS).write_text(json.dumps(meta))
        (aside / MANIFEST).write_text(json.dumps(digests_of(aside)))

        # On disk, before it takes its name
        for file in (*aside.iterdir(), aside):
            sync_to_disk(file)
        final = self.folder / f"step-{step:08d}"
        shutil.rmtree(final, ignore_errors=True)
        aside.rename(final)
        sync_to_disk(self.folder)

        for old in sorted(self.folder.glob("step-*"))[: -self.keep]:
            shutil.rmtree(old, ignore_errors=True)

    def load(self) -> State | None:
        """The newest checkpoint whose files have the digests of its manifest."""
        for folder in sorted(self.folder.glob("step-*"), reverse=True):
            try:
                if json.loads((folder / MANIFEST).read_text()) == digests_of(folder):
                    return load_file(folder / TENSORS), json.loads((folder / FACTS).read_text())
            except (OSError, ValueError, RecursionError):
                continue
        return None


def digests_of(folder: Path) -> dict[str, str]:
    """The sha256 of a checkpoint's files."""
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in (TENSORS, FACTS)}


def sync_to_disk(path: Path) -> None:
    """fsync a file or a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
