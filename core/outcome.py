"""What a job ends with. Imports no torch: runners that need none make outcomes too."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Output:
    """A file of the bundle, by its name in the bundle; or a recovery key, which is no part of it.

    withheld: it is kept, but nobody may download it, as the verdict did not pass (`evaluation.on_fail`).
    """

    name: str
    media_type: str
    path: Path
    kind: str = "file"
    withheld: bool = False


@dataclass
class Outcome:
    """What a job ends with; `verdict` is null when nothing was to be judged."""

    verdict: dict[str, Any] | None
    outputs: list[Output] = field(default_factory=list)
