"""The API below a prefix, behind a reverse proxy that passes it on or strips it."""

import re
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.support.service import Tenant, make_settings, problem, serve
from tests.support.tcp_proxy import Proxy, shut

PREFIX = "/expunge"
START = re.compile(rb"^([A-Z]+) /expunge(/\S*)? ")


class Stripping(Proxy):
    """Takes the prefix out of each request's first line."""

    def pump(self, source: socket.socket, sink: socket.socket, asked: str) -> None:
        if asked == "on_reply":
            return super().pump(source, sink, asked)
        try:
            while data := source.recv(1 << 20):
                sink.sendall(START.sub(lambda found: found[1] + b" " + (found[2] or b"/") + b" ", data))
        except OSError:
            pass
        for end in (source, sink):
            shut(end)


@pytest.fixture(params=[Proxy, Stripping], ids=["passed on", "stripped"])
def below(request, postgres_url: str, redis_url: str, tmp_path: Path) -> Iterator[Tenant]:
    """A tenant whose service is reached through the proxy."""
    settings = make_settings(postgres_url, redis_url, tmp_path)
    with serve(settings, root_path=PREFIX) as (url, _):
        where = urlsplit(url)
        proxy = request.param(where.hostname, where.port)
        try:
            yield Tenant(f"http://127.0.0.1:{proxy.port}{PREFIX}", settings)
        finally:
            proxy.close()


def test_all_is_as_without_it_and_every_address_carries_it(below: Tenant, tmp_path: Path):
    client = below.http()
    for path in ("/", "/healthz", "/readyz", "/docs", "/openapi.json"):
        assert httpx.get(below.url + path).status_code == 200, path
    assert httpx.get(below.url).status_code == 200
    assert httpx.get(below.url + "/openapi.json").json()["servers"] == [{"url": PREFIX}]
    for page in ("/", "/docs"):
        for link in re.findall(r'href="([^"#]+)"', httpx.get(below.url + page).text):
            assert link.startswith(PREFIX), link
            assert httpx.get(f"{below.url.removesuffix(PREFIX)}{link}").status_code == 200
    made = client.post(
        "/jobs/erase", json={"concepts": ["church"], "method": "uce"}, headers={"Idempotency-Key": "a"}
    )
    assert made.status_code == 202
    assert made.headers["location"] == f"{PREFIX}/jobs/{made.json()['id']}"
    again = client.post(
        "/jobs/erase", json={"concepts": ["church"], "method": "uce"}, headers={"Idempotency-Key": "a"}
    )
    assert again.headers["location"] == made.headers["location"]
    (file,) = below.finish(made.json()["id"], {"a.bin": b"0123456789"}, tmp_path)
    link = client.post(f"/artifacts/{file.id}/link").json()["url"]
    assert link.startswith(below.url + "/artifacts/")
    assert httpx.get(link).content == b"0123456789"
    assert httpx.head(link).headers["content-length"] == "10"
    with client.stream(
        "GET", f"/jobs/{made.json()['id']}/events", headers={"Accept": "text/event-stream"}
    ) as answer:
        assert "event: succeeded" in answer.read().decode()
    unknown = problem_below(client.get("/jobs/00000000-0000-0000-0000-000000000000"), 404)
    assert unknown["instance"] == f"{PREFIX}/jobs/00000000-0000-0000-0000-000000000000"
    problem_below(httpx.get(f"{below.url}/jobs"), 401)


def test_uploads_have_their_own_limit_and_other_bodies_theirs(below: Tenant):
    client = below.http()
    upload = client.post("/artifacts", content=bytes(100_000), headers={"Content-Type": "image/png"})
    problem(upload, 422, "not_an_image")
    problem(
        client.post("/jobs/erase", content=b" " * 100_000, headers={"Content-Type": "application/json"}),
        413,
        "payload_too_large",
    )


def test_metrics_count_by_the_routes_own_path(below: Tenant):
    below.http().get("/queue")
    assert 'route="/queue"' in httpx.get(f"{below.url}/metrics").text


def problem_below(answer: httpx.Response, status: int) -> dict:
    assert answer.status_code == status
    assert answer.json()["type"].startswith(f"{PREFIX}/docs#")
    return answer.json()
