"""A cache of API-key lookups that holds each for at most a second.

Looking a key up in the database costs as much as most requests themselves.
"""

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable

from starlette.concurrency import run_in_threadpool

from expunge.api.caller import Caller

MAX_AGE = 1.0  # seconds an entry is used: a revocation reaches every process within that time
REFRESH_AGE = 0.5  # seconds after which one request looks the key up again, while others use the entry
MAX_KEYS = 1024  # entries kept


class KeyCache:
    """Callers by the sha256 of their key's text.

    Only live keys are cached, so a new key works at once. Concurrent requests share one lookup.
    """

    def __init__(self) -> None:
        self.entries: OrderedDict[bytes, tuple[float, Caller]] = OrderedDict()
        self.lookups: dict[bytes, tuple[float, asyncio.Task[Caller | None]]] = {}
        self.cleared_at = 0.0

    def has(self, token: str) -> bool:
        """Whether the key was live when last looked up, however long ago."""
        return hashlib.sha256(token.encode()).digest() in self.entries

    async def find_caller(self, token: str, lookup: Callable[[str], Caller | None]) -> Caller | None:
        """The caller who holds the key, or None. `lookup` asks the database; it runs in a thread."""
        digest, now = hashlib.sha256(token.encode()).digest(), time.monotonic()
        looked_up_at, cached = self.entries.get(digest, (0.0, None))
        started_at, task = self.lookups.get(digest, (0.0, None))
        # A lookup that takes longer than MAX_AGE may be older than a revocation, so it is not shared.
        sharable = task is not None and now - started_at < MAX_AGE

        # Use the entry while it is fresh; while it is being refreshed, also one that is less so.
        age = now - looked_up_at
        if cached is not None and (age < REFRESH_AGE or (sharable and age < MAX_AGE)):
            return cached

        if task is None or not sharable:
            task = asyncio.create_task(self.look_up(digest, token, lookup))
            self.lookups[digest] = now, task
        return await asyncio.shield(task)

    async def look_up(
        self, digest: bytes, token: str, lookup: Callable[[str], Caller | None]
    ) -> Caller | None:
        """Ask the database, and keep the answer unless the cache was cleared in the meantime."""
        started_at, lookups = time.monotonic(), self.lookups
        try:
            found = await run_in_threadpool(lookup, token)
        finally:
            lookups.pop(digest, None)
        if found is None:
            self.entries.pop(digest, None)
        elif started_at > self.cleared_at:
            self.entries[digest] = started_at, found
            self.entries.move_to_end(digest)
            while len(self.entries) > MAX_KEYS:
                self.entries.popitem(last=False)
        return found

    def clear(self) -> None:
        """Forget all keys; called once a key's end is committed, so this process refuses it from then on."""
        self.cleared_at = time.monotonic()
        self.entries = OrderedDict()
        self.lookups = {}
