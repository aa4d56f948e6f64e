"""One answer for all who ask at about the same time."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Shared(Generic[T]):
    """`ask()` at most once every `seconds` (of a slow one: in twenty times what it took); who comes meanwhile
    gets the same answer, or the same error.
    """

    def __init__(self, ask: Callable[[], Awaitable[T]], seconds: float) -> None:
        self.ask, self.seconds = ask, seconds
        self.again_at = 0.0
        self.task: asyncio.Task[T] | None = None

    async def __call__(self) -> T:
        if self.task is None or (self.task.done() and time.monotonic() >= self.again_at):
            self.task = asyncio.create_task(self.run())
        return await asyncio.shield(self.task)

    async def run(self) -> T:
        begun = time.monotonic()
        try:
            return await self.ask()
        finally:
            took = time.monotonic() - begun
            self.again_at = begun + max(self.seconds, 20 * took)
