"""Where the repository lies, and what a process that a test starts must have on its path."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PYTHONPATH = os.pathsep.join((str(ROOT / "src"), str(ROOT)))  # the package, and tests.support
