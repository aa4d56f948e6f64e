"""One answer for all callers that ask at about the same time."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")
IDLE_FACTOR = 20  # a slow question is asked again only after this many times its own duration


class SingleFlight(Generic[T]):
    """Calls `ask()` at most once every `seconds`, and less often when it is slow.

    Whoever calls in between gets the same answer, or the same error.
    """

    def __init__(self, ask: Callable[[], Awaitable[T]], seconds: float) -> None:
        self.ask, self.seconds = ask, seconds
        self.next_at = 0.0
        self.task: asyncio.Task[T] | None = None

    async def __call__(self) -> T:
        if self.task is None or (self.task.done() and time.monotonic() >= self.next_at):
            self.task = asyncio.create_task(self.run())
        return await asyncio.shield(self.task)

    async def run(self) -> T:
        started_at = time.monotonic()
        try:
            return await self.ask()
        finally:
            duration = time.monotonic() - started_at
            self.next_at = started_at + max(self.seconds, IDLE_FACTOR * duration)
