"""Who holds a key, remembered for at most a second: looking it up costs as much as most requests
themselves.
"""

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING

from starlette.concurrency import run_in_threadpool

if TYPE_CHECKING:
    from expunge.api.auth import Caller

TRUSTED = 1.0  # seconds: within so long a revocation reaches every process
EARLY = 0.5  # seconds after which one request asks anew, while the others still go by what is known
KEPT = 1024  # keys remembered


class Known:
    """Callers by a hash of their key's text.

    Only live keys are remembered, so a new one works at once; requests of one moment share a lookup.
    """

    def __init__(self) -> None:
        self.seen: OrderedDict[bytes, tuple[float, Caller]] = OrderedDict()
        self.asking: dict[bytes, tuple[float, asyncio.Task[Caller | None]]] = {}
        self.forgotten = 0.0

    def remembers(self, token: str) -> bool:
        """Whether the key was alive when it was last looked up, however long ago."""
        return hashlib.sha256(token.encode()).digest() in self.seen

    async def caller(self, token: str, lookup: "Callable[[str], Caller | None]") -> "Caller | None":
        """Who holds the key; None where nobody does. `lookup` asks the database, in a thread."""
        mark, now = hashlib.sha256(token.encode()).digest(), time.monotonic()
        asked, known = self.seen.get(mark, (0.0, None))
        begun, task = self.asking.get(mark, (0.0, None))
        under_way = task is not None and now - begun < TRUSTED  # a slower one may be older than a revocation
        if known is not None and (now - asked < EARLY or (under_way and now - asked < TRUSTED)):
            return known
        if task is None or not under_way:
            task = asyncio.create_task(self.ask(mark, token, lookup))
            self.asking[mark] = now, task
        return await asyncio.shield(task)

    async def ask(self, mark: bytes, token: str, lookup: "Callable[[str], Caller | None]") -> "Caller | None":
        asked, asking = time.monotonic(), self.asking
        try:
            found = await run_in_threadpool(lookup, token)
        finally:
            asking.pop(mark, None)
        if found is None:
            self.seen.pop(mark, None)
        elif asked > self.forgotten:
            self.seen[mark] = asked, found
            self.seen.move_to_end(mark)
            while len(self.seen) > KEPT:
                self.seen.popitem(last=False)
        return found

    def forget(self) -> None:
        """After a key's end was committed: this process refuses it from the next request on."""
        self.forgotten, self.seen, self.asking = time.monotonic(), OrderedDict(), {}
