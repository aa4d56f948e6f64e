"""A file's bytes from the kernel straight into the socket, where the server is uvicorn on asyncio's own loop;
elsewhere in large chunks.

ASGI has a message for it (the extension http.response.zerocopysend), which uvicorn does not speak; `ZeroCopy`
says it in uvicorn's stead.
"""

import asyncio
import os
from asyncio.trsock import TransportSocket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from typing import Any, BinaryIO, TypeGuard

import h11
from starlette.concurrency import iterate_in_threadpool, run_in_threadpool
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import RequestResponseCycle

Alive = Callable[[], Awaitable[bool]]
EXTENSION = "http.response.zerocopysend"
CHUNK = 1 << 20
PIECE = 64 << 20  # bytes between two looks at whether the key that asked lives on


class Ended(Exception):
    """The key of a download has ended: it is broken off."""


async def while_alive(chunks: Iterator[bytes], alive: Alive) -> AsyncIterator[bytes]:
    """The chunks, as long as the key lives. Ended."""
    sent = 0
    async for chunk in iterate_in_threadpool(chunks):
        yield chunk
        sent += len(chunk)
        if sent >= PIECE:
            sent = 0
            if not await alive():
                raise Ended


class FileResponse(Response):
    """Bytes [start, stop) of an open file, which it closes; Content-Length is the caller's to give. Broken
    off (Ended) when the key is no longer alive.
    """

    def __init__(
        self,
        file: BinaryIO,
        start: int,
        stop: int,
        status: int,
        headers: Mapping[str, str],
        media_type: str,
        alive: Alive,
    ) -> None:
        super().__init__(None, status, headers, media_type)
        self.file, self.start, self.stop, self.alive = file, start, stop, alive

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        with self.file:
            await send(
                {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
            )
            for piece in range(self.start, self.stop, PIECE):
                stop = min(piece + PIECE, self.stop)
                if piece > self.start and not await self.alive():
                    raise Ended
                if EXTENSION in (scope.get("extensions") or {}):
                    await send(
                        {
                            "type": EXTENSION,
                            "file": self.file,
                            "offset": piece,
                            "count": stop - piece,
                            "more_body": True,
                        }
                    )
                    continue
                for at in range(piece, stop, CHUNK):
                    chunk = await run_in_threadpool(os.pread, self.file.fileno(), min(CHUNK, stop - at), at)
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})


class ZeroCopy:
    """ASGI middleware, outside of all others: it needs uvicorn's own `send`."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        cycle = getattr(send, "__self__", None)
        if scope["type"] != "http" or not able(cycle):
            await self.app(scope, receive, send)
            return
        own = cycle
        scope["extensions"] = {**(scope.get("extensions") or {}), EXTENSION: {}}

        async def hand_on(message: Message) -> None:
            if message["type"] == EXTENSION:
                await copy(own, message)
            else:
                await send(message)

        await self.app(scope, receive, hand_on)


def able(cycle: Any) -> TypeGuard[RequestResponseCycle]:
    """Whether this is a request over a plain socket that asyncio's loop knows to send files through."""
    if not isinstance(cycle, RequestResponseCycle) or cycle.scope["scheme"] != "http":
        return False
    return isinstance(cycle.transport.get_extra_info("socket"), TransportSocket)


class Length:
    """Stands for bytes that h11 only counts."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count


async def copy(cycle: RequestResponseCycle, message: Message) -> None:
    """Send the file; a client that went away ends it, as with any other body."""
    if cycle.disconnected or not message["count"]:
        return
    counted: Any = Length(message["count"])
    cycle.conn.send_with_data_passthrough(h11.Data(data=counted))
    try:
        await asyncio.get_running_loop().sendfile(
            cycle.transport, message["file"], message["offset"], message["count"]
        )
    except OSError:
        cycle.transport.abort()
        await asyncio.sleep(0)  # until the server knows of it, and wants no more of this answer
