"""Where a model lies, and the sha256 of what decides how it draws."""

import hashlib
from pathlib import Path

from core import impact

BUNDLED = Path(__file__).parents[1] / "bundled"


def resolve(source: str | Path) -> Path | None:
    """The folder behind `bundled:NAME` or a local path; None when `source` must be a hub id."""
    text = str(source)
    if text.startswith("bundled:"):
        return BUNDLED / text.removeprefix("bundled:")
    path = Path(text)
    return path if path.is_dir() else None


def digest_of(folder: Path) -> str:
    """sha256 over relative names and contents of everything that decides what the model draws: weights, configs, tokenizer; not what was measured of it."""
    total = hashlib.sha256()
    for file in sorted(f for f in folder.rglob("*") if f.suffix in (".safetensors", ".json", ".txt") and f.name != impact.FILE):
        total.update(str(file.relative_to(folder)).encode() + b"\0")
        with file.open("rb") as stream:
            total.update(hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()
