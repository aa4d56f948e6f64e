"""A results file that several processes add to."""

import fcntl
import json
from pathlib import Path
from typing import Any


def add(file: Path, key: str, row: dict[str, Any]) -> dict[str, Any]:
    """Add a row, beside what another process may have added meanwhile; what the file then holds."""
    with file.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        known: dict[str, Any] = (json.loads(file.read_text()) if file.exists() else {}) | {key: row}
        file.write_text(json.dumps(dict(sorted(known.items())), indent=1) + "\n")
    return known
