"""How many requests one key and one tenant may keep waiting for a job's next event in this process.

Event streams and `Prefer: wait` both count.
"""

import uuid
from collections import Counter

from expunge.api.caller import Caller
from expunge.api.problems import Problem

RETRY_AFTER = 5  # seconds


class StreamSlot:
    """A context manager: one of a tenant's open streams, given back when left."""

    def __init__(self, limits: "StreamLimits", owners: tuple[uuid.UUID, uuid.UUID]) -> None:
        self.limits, self.owners = limits, owners

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None:
        self.limits.open_streams.subtract(self.owners)
        self.limits.open_streams += Counter()  # drops the entries that are down to 0


class StreamLimits:
    """At most `max_streams` for each tenant, and half of them for each key; event loop only, so no lock."""

    def __init__(self, max_streams: int) -> None:
        self.max_streams = max_streams
        self.open_streams = Counter[uuid.UUID]()

    def has_room(self, caller: Caller) -> bool:
        per_key = max(1, self.max_streams // 2)
        return (
            self.open_streams[caller.tenant_id] < self.max_streams
            and self.open_streams[caller.key_id] < per_key
        )

    def acquire(self, caller: Caller) -> StreamSlot:
        """Reserve a slot.

        Raises: Problem `too_many_requests`.
        """
        if not self.has_room(caller):
            detail = (
                f"EXPUNGE_MAX_STREAMS allows a tenant {self.max_streams} open streams, and one API key half"
                " as many; all are open: close one, or read GET /jobs/{id}/events as pages."
            )
            raise Problem("too_many_requests", detail, headers={"Retry-After": str(RETRY_AFTER)})
        owners = caller.tenant_id, caller.key_id
        self.open_streams.update(owners)
        return StreamSlot(self, owners)
