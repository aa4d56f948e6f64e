"""Results of attacks that were run before, addressed by everything that they depend on: a restarted job
repeats none of them, and what the base model gives way to is found once.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from expunge.core.cached_files import delete_longest_unused

LIMIT = 2 << 30  # bytes of all results together
Made = tuple[dict[str, Tensor], str]
"""Tensors, and a text."""


@dataclass(frozen=True)
class Kept:
    """Results under a folder; None: nothing is kept.

    facts: what all of these results depend on, such as the model's digest.
    """

    folder: Path | None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def get(self, facts: Mapping[str, Any], make: Callable[[], Made]) -> Made:
        """The result for these facts, made where it is not there."""
        if self.folder is None:
            return make()
        text = json.dumps({**self.facts, **facts}, sort_keys=True, default=str)
        file = self.folder / f"{hashlib.sha256(text.encode()).hexdigest()}.safetensors"
        with suppress(FileNotFoundError, SafetensorError, KeyError):  # not there, or not whole: made anew
            tensors = load_file(file)
            with safe_open(file, "pt") as opened:
                found = (opened.metadata() or {})["text"]
            os.utime(file)  # used now: see `trim`
            return tensors, found
        tensors, found = make()
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(f".{os.getpid()}.tmp")
        save_file({name: t.cpu().contiguous() for name, t in tensors.items()}, partial, {"text": found})
        partial.replace(file)
        return tensors, found


def trim(folder: Path, limit: int = LIMIT) -> None:
    """Delete the results that were longest unused until at most `limit` bytes are left."""
    delete_longest_unused(folder.glob("?" * 64 + ".safetensors"), limit)
