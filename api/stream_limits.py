"""How many answers one key, and one tenant, may keep waiting for a job's next event in this process: event
streams, and `Prefer: wait`.
"""

import uuid
from collections import Counter
from typing import TYPE_CHECKING

from expunge.api.problems import Problem

if TYPE_CHECKING:
    from expunge.api.auth import Caller

SOON = 5  # seconds


class Seat:
    """A place that is taken until it is left."""

    def __init__(self, seats: "Seats", whose: tuple[uuid.UUID, uuid.UUID]) -> None:
        self.seats, self.whose = seats, whose

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None:
        self.seats.taken.subtract(self.whose)
        self.seats.taken += Counter()  # forgets those that stand at nothing


class Seats:
    """`most` of a tenant, half of them of one key; all in the event loop, so nothing is locked."""

    def __init__(self, most: int) -> None:
        self.most, self.taken = most, Counter[uuid.UUID]()

    def free(self, caller: "Caller") -> bool:
        return self.taken[caller.tenant_id] < self.most and self.taken[caller.key_id] < max(1, self.most // 2)

    def take(self, caller: "Caller") -> Seat:
        """A seat. Problem: too_many_requests."""
        if not self.free(caller):
            text = (
                f"EXPUNGE_MAX_STREAMS allows a tenant {self.most} open streams, and one API key half as many;"
                " all are open: close one, or read GET /jobs/{id}/events as pages."
            )
            raise Problem("too_many_requests", text, headers={"Retry-After": str(SOON)})
        whose = caller.tenant_id, caller.key_id
        self.taken.update(whose)
        return Seat(self, whose)
