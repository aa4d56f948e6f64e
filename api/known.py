"""Who holds a key, remembered for at most a second: looking it up costs as much as most requests themselves."""

import hashlib
import time
from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from api.auth import Caller

TRUSTED = 1.0  # seconds: within so long a revocation reaches every process
KEPT = 1024  # keys remembered


class Known:
    """Callers by a hash of their key's text. Only live keys are remembered, so a new one works at once."""

    def __init__(self) -> None:
        self.seen: OrderedDict[bytes, tuple[float, Caller]] = OrderedDict()
        self.forgotten = 0.0

    def get(self, token: str) -> "Caller | None":
        asked, caller = self.seen.get(mark(token), (0.0, None))
        return caller if caller is not None and time.monotonic() - asked < TRUSTED else None

    def note(self, token: str, caller: "Caller", asked: float) -> None:
        """`asked`: when the database was, on the monotonic clock; what is older than `forget` may be out of date."""
        if asked > self.forgotten:
            self.seen[mark(token)] = asked, caller
            while len(self.seen) > KEPT:
                self.seen.popitem(last=False)

    def forget(self) -> None:
        """After a key's end was committed: this process refuses it from the next request on."""
        self.forgotten, self.seen = time.monotonic(), OrderedDict()


def mark(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
