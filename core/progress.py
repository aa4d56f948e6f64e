"""How a long run reports where it is, and how it survives a kill."""

import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypedDict

import torch
from safetensors.torch import load_file, save_file


class Progress(TypedDict, total=False):
    """One report: `phase` is load, learn, encode, trajectories, erase, evaluate, deliver; `eta_s` counts
    the phase's seconds to go.
    """

    phase: str
    step: int
    total: int
    loss: float
    target: str | None
    eta_s: float | None
    message: str


Callback = Callable[[Progress], None]
"""Called between steps; what it raises (a cancel, a lost lease) ends the run and reaches the caller."""


def ignore(progress: Progress) -> None:
    """The callback of a caller who does not look."""


def show(progress: Progress) -> None:
    """The callback of a person: in a terminal or a notebook a line that is written over, elsewhere
    nothing.
    """
    if not (sys.stderr.isatty() or "ipykernel" in sys.modules):
        return
    step, total, eta = progress.get("step", 0), progress.get("total", 0), progress.get("eta_s")
    facts = [
        f"{progress.get('phase', '')} {step}/{total}",
        progress.get("message") or progress.get("target") or "",
    ]
    facts += [f"loss {progress['loss']:.4f}"] if progress.get("loss") is not None else []
    facts += [f"{eta:.0f} s left"] if eta else []
    sys.stderr.write(
        "\r" + "  ".join(filter(None, facts))[:79].ljust(79) + ("\n" if total and step >= total else "")
    )
    sys.stderr.flush()


class Clock:
    """Estimates the seconds a phase still takes from its mean pace since `start`."""

    def __init__(self, total: int, start: int = 0) -> None:
        self.total, self.start, self.begun = total, start, time.monotonic()

    def eta(self, step: int) -> float | None:
        done = step - self.start
        return None if done <= 0 else round((time.monotonic() - self.begun) / done * (self.total - step), 1)


class Checkpoints(Protocol):
    """Where a run keeps its state; `load` gives the newest intact one."""

    def save(self, step: int, tensors: dict[str, torch.Tensor], meta: dict[str, Any]) -> None: ...

    def load(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None: ...


def fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


FILES = ("state.safetensors", "meta.json")


class DirectoryCheckpoints:
    """Checkpoints in a folder: written aside, synced, sealed with a sha256 manifest, renamed; the last two
    are kept.
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder, self.keep = Path(folder), keep
        self.folder.mkdir(parents=True, exist_ok=True)

    def save(self, step: int, tensors: dict[str, torch.Tensor], meta: dict[str, Any]) -> None:
        final, tmp = self.folder / f"step-{step:08d}", self.folder / f"tmp-{os.getpid()}"
        shutil.rmtree(tmp, ignore_errors=True)
        tmp.mkdir()
        save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, tmp / "state.safetensors")
        (tmp / "meta.json").write_text(json.dumps(meta))
        digests = {name: hashlib.sha256((tmp / name).read_bytes()).hexdigest() for name in FILES}
        (tmp / "manifest.json").write_text(json.dumps(digests))
        for file in (*tmp.iterdir(), tmp):
            fsync(file)
        shutil.rmtree(final, ignore_errors=True)
        tmp.rename(final)
        fsync(self.folder)
        for old in sorted(self.folder.glob("step-*"))[: -self.keep]:
            shutil.rmtree(old, ignore_errors=True)

    def load(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
        for folder in sorted(self.folder.glob("step-*"), reverse=True):
            try:
                digests = json.loads((folder / "manifest.json").read_text())
                intact = digests == {
                    name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in FILES
                }
                if intact:
                    return load_file(folder / "state.safetensors"), json.loads(
                        (folder / "meta.json").read_text()
                    )
            except (OSError, ValueError, RecursionError):
                continue
        return None
