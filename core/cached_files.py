"""Caches of files: what is kept of them."""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path


def delete_longest_unused(files: Iterable[Path], limit: int) -> None:
    """Delete those of the files that were longest unused, by their mtime, until at most `limit` bytes are
    left. Files that are gone meanwhile do not matter.
    """
    found = []
    for file in files:
        with suppress(FileNotFoundError):
            found.append((file.stat().st_mtime, file.stat().st_size, file))
    excess = sum(size for _, size, _ in found) - limit
    for _, size, file in sorted(found):
        if excess <= 0:
            return
        file.unlink(missing_ok=True)
        excess -= size
