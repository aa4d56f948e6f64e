"""The sha256 of what decides how a model draws, and those by which earlier releases knew it."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file

from expunge.core import impact, layouts, sources
from expunge.core.sources import BUNDLED

__all__ = ["BUNDLED", "digest_of", "earlier_digests"]


def digest_of(folder: Path) -> str:
    """sha256 over the names and contents of the files that are read: weights, configurations, tokenizer,
    vocabulary; the same on every host.
    """
    return sources.digest_of(layouts.look(folder))


def earlier_digests(folder: Path) -> Iterator[str]:
    """What artifacts of earlier releases name the model by: every file of a folder; of a hub model the
    U-Net's tensors, in the precision they were loaded in.
    """
    total = hashlib.sha256()
    for file in sorted(
        f
        for f in folder.rglob("*")
        if f.suffix in (".safetensors", ".json", ".txt") and f.name != impact.FILE
    ):
        total.update(str(file.relative_to(folder)).encode() + b"\0")
        with file.open("rb") as stream:
            total.update(hashlib.file_digest(stream, "sha256").digest())
    yield total.hexdigest()
    files = [
        name
        for name in layouts.look(folder).files
        if name.startswith("unet/") and name.endswith(".safetensors")
    ]
    tensors = {name: tensor for file in files for name, tensor in load_file(folder / file).items()}
    for dtype in (torch.float16, torch.float32):
        total = hashlib.sha256()
        for name in sorted(tensors):
            total.update(
                name.encode() + tensors[name].to(dtype).contiguous().view(torch.uint8).numpy().tobytes()
            )
        yield total.hexdigest()
