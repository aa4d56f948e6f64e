"""Files that go from the kernel into the socket."""

import asyncio
import random
import socket
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import uvicorn

from expunge.api.middleware.sendfile import EXTENSION, FileResponse, SendFile
from tests.support.service import Tenant

BYTES = random.Random(7).randbytes(20_000_003)


@contextmanager
def serving(app: object) -> Iterator[str]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(16)
        server = uvicorn.Server(
            uvicorn.Config(app, log_config=None, http="h11", loop="asyncio", lifespan="off")
        )  # type: ignore[arg-type]
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(BYTES)
    return path


@pytest.mark.parametrize("copies", [True, False])
def test_the_bytes_are_the_same_with_the_server_s_help_and_without(file, copies):
    offered = []

    async def alive():
        return True

    async def app(scope, receive, send):
        offered.append(EXTENSION in (scope.get("extensions") or {}))
        start, stop = map(int, scope["path"].strip("/").split("-"))
        headers = {"Content-Length": str(stop - start)}
        await FileResponse(file.open("rb"), start, stop, 200, headers, "application/octet-stream", alive)(
            scope, receive, send
        )

    with serving(SendFile(app) if copies else app) as url, httpx.Client() as client:
        for start, stop in ((0, len(BYTES)), (1, 2), (5, 5), (3_000_001, len(BYTES))):
            assert client.get(f"{url}/{start}-{stop}").content == BYTES[start:stop]
    assert offered == [copies] * 4


def test_a_client_that_goes_away_in_the_middle_leaves_the_service_unharmed(tenant: Tenant, tmp_path):
    (made,) = tenant.finish(tenant.erase()["id"], {"a.bin": BYTES}, tmp_path)
    client, path = tenant.http(), f"/artifacts/{made.id}/content"
    for _ in range(3):
        with client.stream("GET", path) as answer:
            first = next(answer.iter_bytes(100_000))
        assert first == BYTES[: len(first)]
    rest = client.get(path, headers={"Range": f"bytes={len(first)}-", "If-Range": f'"{made.sha256}"'})
    assert first + rest.content == BYTES
    assert client.get("/jobs").status_code == 200


def test_what_is_not_uvicorn_s_own_request_gets_no_offer():
    seen = []

    async def app(scope, receive, send):
        seen.append(scope.get("extensions"))

    async def nowhere(*_: object) -> None: ...

    asyncio.run(
        SendFile(app)({"type": "http", "scheme": "http", "path": f"/{uuid.uuid4()}"}, nowhere, nowhere)
    )
    assert seen == [None]
