"""JSON schemas of what a bundle says, by name and version: core/schemas, which docs/schemas links to. Imports
no torch; core/write_schemas.py writes them.

Within a version, fields are only added, and those may be missing; readers pass over fields that they do not
know.
"""

import json
from pathlib import Path
from typing import Any

HOME = Path(__file__).parent / "schemas"
NAMES = ("report-1", "inspection-1", "certificate-1")


def read(name: str) -> dict[str, Any]:
    """The schema of this name, as it was written."""
    found: dict[str, Any] = json.loads((HOME / f"{name}.json").read_text())
    return found
