"""Send a file's bytes from the kernel straight into the socket (sendfile), where the server allows it.

It must be uvicorn on asyncio's own loop, over plain HTTP; elsewhere the file is read in large chunks.
ASGI has a message for this, the extension http.response.zerocopysend, which uvicorn does not support:
`SendFile` handles it in uvicorn's place. If a release of uvicorn breaks this, remove `SendFile` from
middleware/stack.py; downloads then still work, in chunks.
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

KeyCheck = Callable[[], Awaitable[bool]]
"""Whether the API key that asked for a download is still valid."""
EXTENSION = "http.response.zerocopysend"
CHUNK = 1 << 20  # bytes
KEY_CHECK_BYTES = 64 << 20  # bytes between two checks of the key


class KeyEnded(Exception):
    """The API key of a download has ended: the download is aborted."""


async def while_key_valid(chunks: Iterator[bytes], key_valid: KeyCheck) -> AsyncIterator[bytes]:
    """Yield the chunks as long as the key is valid.

    Raises: KeyEnded.
    """
    sent = 0
    async for chunk in iterate_in_threadpool(chunks):
        yield chunk
        sent += len(chunk)
        if sent >= KEY_CHECK_BYTES:
            sent = 0
            if not await key_valid():
                raise KeyEnded


class FileResponse(Response):
    """Bytes [start, stop) of an open file, which it closes; the caller sets Content-Length.

    Raises: KeyEnded while it is sent, once the key is no longer valid.
    """

    def __init__(
        self,
        file: BinaryIO,
        start: int,
        stop: int,
        status: int,
        headers: Mapping[str, str],
        media_type: str,
        key_valid: KeyCheck,
    ) -> None:
        super().__init__(None, status, headers, media_type)
        self.file, self.start, self.stop = file, start, stop
        self.key_valid = key_valid

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        zero_copy = EXTENSION in (scope.get("extensions") or {})
        with self.file:
            await send(
                {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
            )
            for start in range(self.start, self.stop, KEY_CHECK_BYTES):
                stop = min(start + KEY_CHECK_BYTES, self.stop)
                if start > self.start and not await self.key_valid():
                    raise KeyEnded
                await (self.send_zero_copy if zero_copy else self.send_chunks)(send, start, stop)
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def send_zero_copy(self, send: Send, start: int, stop: int) -> None:
        await send(
            {"type": EXTENSION, "file": self.file, "offset": start, "count": stop - start, "more_body": True}
        )

    async def send_chunks(self, send: Send, start: int, stop: int) -> None:
        for offset in range(start, stop, CHUNK):
            chunk = await run_in_threadpool(os.pread, self.file.fileno(), min(CHUNK, stop - offset), offset)
            await send({"type": "http.response.body", "body": chunk, "more_body": True})


class SendFile:
    """ASGI middleware, outside of all others: it needs uvicorn's own `send`."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        cycle = getattr(send, "__self__", None)
        if scope["type"] != "http" or not can_send_files(cycle):
            await self.app(scope, receive, send)
            return
        own_cycle = cycle
        scope["extensions"] = {**(scope.get("extensions") or {}), EXTENSION: {}}

        async def send_or_copy(message: Message) -> None:
            if message["type"] == EXTENSION:
                await copy_file(own_cycle, message)
            else:
                await send(message)

        await self.app(scope, receive, send_or_copy)


def can_send_files(cycle: Any) -> TypeGuard[RequestResponseCycle]:
    """Whether this is uvicorn's request over a plain socket, which asyncio's loop can send files through."""
    if not isinstance(cycle, RequestResponseCycle) or cycle.scope["scheme"] != "http":
        return False
    return isinstance(cycle.transport.get_extra_info("socket"), TransportSocket)


class ByteCount:
    """Stands in for bytes that h11 only has to count."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count


async def copy_file(cycle: RequestResponseCycle, message: Message) -> None:
    """Send the file; when the client disconnects, the connection is closed as for any other body."""
    if cycle.disconnected or not message["count"]:
        return
    counted: Any = ByteCount(message["count"])
    cycle.conn.send_with_data_passthrough(h11.Data(data=counted))
    try:
        await asyncio.get_running_loop().sendfile(
            cycle.transport, message["file"], message["offset"], message["count"]
        )
    except OSError:
        cycle.transport.abort()
        await asyncio.sleep(0)  # let uvicorn notice the disconnect before anything more is sent
