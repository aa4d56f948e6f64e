"""A results file that several processes add to: a line for each row."""

import fcntl
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Rows = dict[str, Any]


def add(file: Path, key: str, row: Mapping[str, Any]) -> Rows:
    """Add a row, beside what another process may have added meanwhile; what the file then holds."""
    with file.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        known: Rows = (json.loads(file.read_text()) if file.exists() else {}) | {key: row}
        lines = (f"{json.dumps(name)}: {json.dumps(known[name])}" for name in sorted(known))
        file.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    return known
