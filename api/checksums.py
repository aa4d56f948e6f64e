"""No corrupt byte leaves silently: the stored bytes are hashed before the first of them is sent."""

import asyncio
import time
from collections import OrderedDict

from starlette.concurrency import run_in_threadpool

from expunge.api.problems import Problem
from expunge.store.blobs import Blobs, Stamp
from expunge.store.errors import NotFound
from expunge.store.models import Artifact

# Seconds for which a check of an unchanged object counts: what changes no stamp (a disk that rots) is looked
# for that often
TRUSTED = 3600.0
KEPT = 1024  # checks remembered
AT_ONCE = 4  # objects hashed at once: each takes a thread, and all its reading
Mark = tuple[str, Stamp]


class Checked:
    """Which stored objects were found whole, and when.

    Who asks for an object that is being hashed waits for that.
    """

    def __init__(self) -> None:
        self.seen: OrderedDict[Mark, float] = OrderedDict()
        self.hashing: dict[Mark, asyncio.Task[bool]] = {}
        self.turns = asyncio.Semaphore(AT_ONCE)

    async def check(self, blobs: Blobs, row: Artifact) -> None:
        """Refuse an artifact whose stored bytes are gone or do not match its sha256."""
        try:
            mark = row.key, await run_in_threadpool(blobs.stamp, row.key)
            if time.monotonic() - self.seen.get(mark, -TRUSTED) < TRUSTED:
                return
            if mark not in self.hashing:
                self.hashing[mark] = asyncio.create_task(self.whole(blobs, row, mark))
            whole = await asyncio.shield(self.hashing[mark])
        except NotFound as error:
            raise Problem(
                "artifact_corrupt", "The stored bytes are gone. Retry the job that made them."
            ) from error
        if not whole:
            raise Problem("artifact_corrupt")

    async def whole(self, blobs: Blobs, row: Artifact, mark: Mark) -> bool:
        """Hash the object, and remember a good one by the stamp that it had before and has still."""
        stamp = mark[1]
        try:
            async with self.turns:
                begun = time.time()
                whole = await run_in_threadpool(blobs.hash, row.key) == (row.size, row.sha256)
                if whole and stamp.settled(begun) and await run_in_threadpool(blobs.stamp, row.key) == stamp:
                    self.seen[mark] = time.monotonic()
                    while len(self.seen) > KEPT:
                        self.seen.popitem(last=False)
                return whole
        finally:
            del self.hashing[mark]
