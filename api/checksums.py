"""Checksums of stored artifacts: the bytes are hashed before the first of them is sent."""

import asyncio
import time
from collections import OrderedDict

from starlette.concurrency import run_in_threadpool

from expunge.api.problems import Problem
from expunge.store.blobs import Blobs, Stamp
from expunge.store.errors import NotFound
from expunge.store.models import Artifact

# Seconds for which the checksum of an unchanged object counts. Damage that changes no stamp (bit rot on a
# disk) is found after at most this long.
MAX_AGE = 3600.0
MAX_ENTRIES = 1024
PARALLEL_HASHES = 4  # objects hashed at once; each takes a thread and reads the whole object
Version = tuple[str, Stamp]
"""A stored object as it was at one time: its storage key and stamp."""


class ChecksumCache:
    """Which stored objects matched their sha256, and when. Requests for one object share the hashing."""

    def __init__(self) -> None:
        self.verified_at: OrderedDict[Version, float] = OrderedDict()
        self.hashing: dict[Version, asyncio.Task[bool]] = {}
        self.hash_slots = asyncio.Semaphore(PARALLEL_HASHES)

    async def verify(self, blobs: Blobs, row: Artifact) -> None:
        """Check that an artifact's stored bytes match its sha256.

        Raises: Problem `artifact_corrupt` where they do not, or are gone.
        """
        try:
            version = row.key, await run_in_threadpool(blobs.stamp, row.key)
            if time.monotonic() - self.verified_at.get(version, -MAX_AGE) < MAX_AGE:
                return
            if version not in self.hashing:
                self.hashing[version] = asyncio.create_task(self.matches(blobs, row, version))
            intact = await asyncio.shield(self.hashing[version])
        except NotFound as error:
            raise Problem(
                "artifact_corrupt", "The stored bytes are gone. Run the job that made them again."
            ) from error
        if not intact:
            raise Problem("artifact_corrupt")

    async def matches(self, blobs: Blobs, row: Artifact, version: Version) -> bool:
        """Hash the object; remember it as intact if its stamp stayed the same meanwhile."""
        stamp = version[1]
        try:
            async with self.hash_slots:
                started_at = time.time()
                intact = await run_in_threadpool(blobs.hash, row.key) == (row.size, row.sha256)
                if (
                    intact
                    and stamp.settled(started_at)
                    and await run_in_threadpool(blobs.stamp, row.key) == stamp
                ):
                    self.verified_at[version] = time.monotonic()
                    while len(self.verified_at) > MAX_ENTRIES:
                        self.verified_at.popitem(last=False)
                return intact
        finally:
            del self.hashing[version]
