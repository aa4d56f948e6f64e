"""The thread that checks uploads: one upload at a time, which bounds the memory of the whole service."""

import asyncio
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from expunge.api.problems import Problem

T = TypeVar("T")
MAX_WAITING = 32  # uploads of one tenant that may wait to be checked


class VettingThread:
    """Runs one check at a time; tenants take turns."""

    def __init__(self) -> None:
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="uploads")
        self.turn = asyncio.Semaphore(1)
        self.tenants: dict[uuid.UUID, asyncio.Lock] = defaultdict(asyncio.Lock)
        self.waiting = Counter[uuid.UUID]()

    async def run(self, tenant_id: uuid.UUID, work: Callable[[], T]) -> T:
        """The result of `work`, run in the thread.

        Raises: Problem `too_many_requests` where too many of the tenant's uploads wait already.
        """
        if self.waiting[tenant_id] >= MAX_WAITING:
            detail = f"{MAX_WAITING} of your uploads are waiting to be checked: send fewer at a time."
            raise Problem("too_many_requests", detail, headers={"Retry-After": "10"})
        self.waiting[tenant_id] += 1
        try:
            async with self.tenants[tenant_id], self.turn:
                # Shielded, as a thread cannot be stopped, and the next upload must not start beside it.
                return await asyncio.shield(asyncio.get_running_loop().run_in_executor(self.thread, work))
        finally:
            self.waiting[tenant_id] -= 1
            if not self.waiting[tenant_id]:
                del self.waiting[tenant_id], self.tenants[tenant_id]
