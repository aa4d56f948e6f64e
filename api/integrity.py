"""No corrupt byte leaves silently: the stored bytes are hashed before the first of them is sent."""

import threading
import time
from collections import OrderedDict
from typing import Any

from api.problems import Problem
from store.blobs import Blobs
from store.errors import NotFound
from store.models import Artifact

TRUSTED = 60.0  # seconds for which a check of an unchanged object counts, so that a resumed download does not hash it all again
KEPT = 1024  # checks remembered


class Checked:
    """Which stored objects were found whole, and when."""

    def __init__(self) -> None:
        self.seen: OrderedDict[tuple[str, Any], float] = OrderedDict()
        self.lock = threading.Lock()

    def fresh(self, mark: tuple[str, Any]) -> bool:
        with self.lock:
            return time.monotonic() - self.seen.get(mark, -TRUSTED) < TRUSTED

    def note(self, mark: tuple[str, Any]) -> None:
        with self.lock:
            self.seen[mark] = time.monotonic()
            while len(self.seen) > KEPT:
                self.seen.popitem(last=False)

    def check(self, blobs: Blobs, row: Artifact) -> None:
        """Refuse an artifact whose stored bytes are gone or do not match its sha256."""
        try:
            mark = (row.key, blobs.stamp(row.key))
            if self.fresh(mark):
                return
            whole = blobs.hash(row.key) == (row.size, row.sha256)
        except NotFound as error:
            raise Problem("artifact_corrupt", "The stored bytes are gone. Retry the job that made them.") from error
        if not whole:
            raise Problem("artifact_corrupt")
        self.note(mark)
