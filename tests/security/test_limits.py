"""What a stranger, or one key, can take of the service: bounds in memory, bytes, statements and open
answers.
"""

import io
import os
import random
import socket
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np
import psutil
import pytest
import redis
from PIL import Image
from sqlalchemy import event

from expunge.api import server
from expunge.api.event_listener import POLL_WITHOUT_LISTENER
from expunge.api.middleware import sendfile
from expunge.store import db, keys
from expunge.store.settings import Settings
from tests.support.cluster import fleet as fleet
from tests.support.service import SCRAPER, Tenant, problem

STREAM = {"Accept": "text/event-stream"}
MIB = 1 << 20


@contextmanager
def statements(tenant: Tenant) -> Iterator[list[str]]:
    """Every statement that the service sends to PostgreSQL meanwhile."""
    found: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        found.append(statement)

    engine = db.engine(tenant.database)
    event.listen(engine, "before_cursor_execute", note)
    try:
        yield found
    finally:
        event.remove(engine, "before_cursor_execute", note)


def samples(tenant: Tenant) -> list[str]:
    text = httpx.get(f"{tenant.url}/metrics", headers=SCRAPER).text
    return [line for line in text.splitlines() if line.startswith("expunge_http_request")]


class TestMetrics:
    def test_hundreds_of_odd_requests_make_no_series_of_their_own(self, limited):
        with limited(rate_limits=False) as tenant:
            tenant_key = tenant.key()
            where, rng, methods = urlsplit(tenant.url), random.Random(0), set[str]()
            connection = socket.create_connection((where.hostname, where.port), timeout=60)
            replies = connection.makefile("rb")
            for i in range(400):
                method, path = (
                    "".join(rng.choices("ABCDEFGHXYZ-_!~", k=rng.randint(3, 12))),
                    f"{'' if i % 2 else '/jobs'}/{uuid.UUID(int=rng.getrandbits(128))}",
                )
                methods.add(method)
                key = f"Authorization: Bearer {tenant_key}\r\n" if i % 3 else ""
                connection.sendall(f"{method} {path} HTTP/1.1\r\nHost: x\r\n{key}X-{i}: 1\r\n\r\n".encode())
                length = 0
                while (line := replies.readline()).strip():
                    length = (
                        int(line.partition(b":")[2]) if line.lower().startswith(b"content-length") else length
                    )
                assert replies.read(length)
            found = samples(tenant)
            assert len(methods) > 350
            assert len(found) < 200
            assert [method for method in methods if method in "".join(found)] == []

    def test_refusals_of_strangers_are_one_series(self, limited):
        with limited(strangers_per_minute=1) as tenant:
            for method in ("GET", "POST", "HEAD", "PUT", "BREW", "DELETE") * 3:
                httpx.request(method, f"{tenant.url}/jobs")
            refused = [line for line in samples(tenant) if 'status="429"' in line and "_total" in line]
            assert [line.partition(" ")[0] for line in refused] == [
                'expunge_http_requests_total{method="OTHER",route="unmatched",status="429"}'
            ]


class TestStrangers:
    def test_an_empty_bucket_refuses_without_a_look_into_the_database(self, limited):
        with limited(strangers_per_minute=2) as tenant, statements(tenant) as asked:
            answers = Counter(
                httpx.get(
                    f"{tenant.url}/jobs", headers={"Authorization": f"Bearer {keys.generate_key()}"}
                ).status_code
                for _ in range(200)
            )
            lookups = [each for each in asked if "last_used_at" in each]
            assert len(lookups) == answers[401] < 20
            assert len(asked) - len(lookups) < 150, "which keys are alive is asked once a second"

    def test_a_bogus_link_costs_no_statement(self, limited):
        with limited(strangers_per_minute=1000) as tenant, statements(tenant) as asked:
            for _ in range(50):
                query = f"by={uuid.uuid4()}&expires=99999999999&sig={'0' * 64}"
                problem(
                    httpx.get(f"{tenant.url}/artifacts/{uuid.uuid4()}/content?{query}"), 403, "link_expired"
                )
            assert asked == []

    def test_a_live_key_works_from_an_address_that_strangers_have_used_up(self, limited):
        with limited(strangers_per_minute=3) as tenant:
            familiar, revoked = tenant.http(), tenant.http()
            assert familiar.get("/jobs").status_code == revoked.get("/jobs").status_code == 200
            with db.transaction(tenant.database) as session:
                keys.revoke(session, tenant.id, keys.list_keys(session, tenant.id)[0].id)
            fresh = tenant.http()
            for _ in range(6):
                httpx.get(f"{tenant.url}/jobs", headers={"Authorization": f"Bearer {keys.generate_key()}"})
            # A process asks which keys are alive once a second, and trusts what it knows of a key for one
            time.sleep(1.1)
            assert httpx.get(f"{tenant.url}/docs").status_code == 429
            assert familiar.get("/jobs").status_code == 200
            assert fresh.get("/jobs").status_code == 200
            assert [revoked.get("/jobs").status_code for _ in range(2)] == [401, 429]

    def test_a_hundred_looks_at_readiness_are_one_and_share_a_connection(self, limited, redis_url: str):
        with limited() as tenant, redis.Redis.from_url(redis_url) as client, statements(tenant) as asked:
            httpx.get(f"{tenant.url}/readyz")
            before, connections = len(asked), client.info("stats")["total_connections_received"]
            with ThreadPoolExecutor(10) as pool:
                answers = list(pool.map(lambda _: httpx.get(f"{tenant.url}/readyz").json(), range(100)))
            assert all(
                answer["checks"].items() >= {"database": "ok", "redis": "ok", "queue": "running"}.items()
                for answer in answers
            )
            assert len(asked) - before <= 30 * before, "at most once a second"
            assert client.info("stats")["total_connections_received"] == connections

    def test_the_front_page_names_no_model(self, anonymous: httpx.Client, settings: Settings):
        text = anonymous.get("/").text
        assert [name for name in settings.models if f">{name}<" in text or f'"{name}"' in text] == []


class TestKeys:
    def test_a_tenant_has_a_bounded_number_of_live_keys(self, limited):
        with limited(max_keys=3) as tenant:
            admin, body = tenant.http(), {"name": "another", "scopes": ["jobs:read"]}
            made = [admin.post("/keys", json=body) for _ in range(4)]
            assert [answer.status_code for answer in made] == [201, 201, 429, 429]
            assert "reached max_keys (3)" in problem(made[-1], 429, "quota_exceeded")["detail"]
            rotated = admin.post(f"/keys/{made[0].json()['id']}/rotate", json={"overlap_s": 0})
            assert rotated.status_code == 201, "the old one goes at once"
            problem(
                admin.post(f"/keys/{rotated.json()['id']}/rotate", json={"overlap_s": 60}),
                429,
                "quota_exceeded",
            )
            admin.delete(f"/keys/{made[1].json()['id']}")
            assert admin.post("/keys", json=body).status_code == 201


class TestImages:
    def test_sixteen_large_images_at_once_take_the_memory_of_one(self, fleet):
        process, url = fleet.api(EXPUNGE_RATE_LIMITS="false")
        picture = io.BytesIO()
        Image.new("RGBA", (4096, 4096), (3, 4, 5, 100)).save(picture, "PNG")
        assert len(picture.getvalue()) < 80_000
        headers = {"Authorization": f"Bearer {fleet.key()}", "Content-Type": "image/png"}
        # What the first of all loads
        first = httpx.post(f"{url}/artifacts", content=encoded(Image.new("RGB", (64, 64))), headers=headers)
        assert first.status_code == 201, first.text
        before = peak(process)

        def upload(_: int) -> int:
            return httpx.post(
                f"{url}/artifacts", content=picture.getvalue(), headers=headers, timeout=300
            ).status_code

        with ThreadPoolExecutor(16) as pool:
            assert list(pool.map(upload, range(16))) == [201] * 16
        assert peak(process) - before < 256 * MIB

    def test_a_jpeg_of_scans_without_end_is_not_decoded(self, tenant: Tenant):
        content = encoded(Image.fromarray(np.zeros((64, 64, 3), np.uint8)), "JPEG", progressive=True)
        scan = content[content.rindex(b"\xff\xda") : -2]
        answer = tenant.http().post(
            "/artifacts",
            content=content[:-2] + scan * 500 + content[-2:],
            headers={"Content-Type": "image/jpeg"},
        )
        assert "scans" in problem(answer, 422, "image_unusable")["detail"]


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def peak(process: psutil.Process) -> int:
    """The most memory that the process has had at any time, in bytes."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


class TestHashing:
    def test_single_bytes_of_an_object_hash_it_once(self, tenant: Tenant, tmp_path: Path):
        content = bytes(32 * MIB)
        (made,) = tenant.finish(tenant.erase()["id"], {"a.bin": content}, tmp_path)
        client, before = tenant.http(), read_by_us()
        with ThreadPoolExecutor(8) as pool:
            address, first = f"/artifacts/{made.id}/content", {"Range": "bytes=0-0"}
            asked = [pool.submit(client.get, address, headers=first) for _ in range(40)]
            assert {each.result().content for each in asked} == {b"\0"}
        assert read_by_us() - before < 2 * len(content)

    def test_a_flip_in_place_that_keeps_the_mtime_is_not_served(
        self, tenant: Tenant, settings: Settings, tmp_path: Path
    ):
        (made,) = tenant.finish(tenant.erase()["id"], {"a.bin": b"whole bytes"}, tmp_path)
        client, path = tenant.http(), Path(settings.artifacts_url.removeprefix("file://")) / made.key
        for _ in range(2):
            time.sleep(0.1)
            assert client.get(f"/artifacts/{made.id}/content").content == b"whole bytes"
        was = path.stat()
        with path.open("r+b") as file:
            file.write(b"W")
        os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))
        now = path.stat()
        assert (now.st_mtime_ns, now.st_size, now.st_ino) == (was.st_mtime_ns, was.st_size, was.st_ino)
        for headers in ({}, {"Range": "bytes=5-6"}):
            problem(client.get(f"/artifacts/{made.id}/content", headers=headers), 500, "artifact_corrupt")


def read_by_us() -> int:
    """Bytes that this process, in which the service runs, has read of files."""
    return int(Path("/proc/self/io").read_text().split()[1])


def revoke_all(tenant: Tenant) -> None:
    with db.transaction(tenant.database) as session:
        for key in keys.list_keys(session, tenant.id):
            keys.revoke(session, tenant.id, key.id)


class TestAnswersInProgress:
    def test_a_stream_ends_with_its_key_before_the_next_event(self, tenant: Tenant):
        job = tenant.erase()
        names: list[str] = []
        with tenant.http("jobs:read").stream("GET", f"/jobs/{job['id']}/events", headers=STREAM) as answer:
            for line in answer.iter_lines():
                if line.startswith("event:"):
                    names.append(line)
                    revoke_all(tenant)
                    tenant.progress(job["id"], tenant.claim(job["id"]), 1)
        assert names == ["event: queued"]

    def test_an_idle_stream_ends_with_its_key_too(self, tenant: Tenant, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr("expunge.api.event_listener.POLL_WITH_LISTENER", POLL_WITHOUT_LISTENER / 4)
        job = tenant.erase()
        with tenant.http("jobs:read").stream("GET", f"/jobs/{job['id']}/events", headers=STREAM) as answer:
            lines = answer.iter_lines()
            assert any(line.startswith("data:") for line in iter(lambda: next(lines), "event: never"))
            revoke_all(tenant)
            assert not [line for line in lines if line.startswith("event:")]

    def test_a_key_and_a_tenant_hold_so_many_streams_and_no_more(self, limited):
        with limited(max_streams=4, rate_limits=False) as tenant:
            path, one, other = f"/jobs/{tenant.erase()['id']}/events", tenant.http(), tenant.http()
            third = tenant.http()
            with opened(one, path), opened(one, path):
                refused = one.get(path, headers=STREAM)
                problem(refused, 429, "too_many_requests")
                assert int(refused.headers["retry-after"]) > 0
                assert one.get(path).status_code == 200, "pages are no streams"
                with opened(other, path), opened(other, path):
                    problem(third.get(path, headers=STREAM), 429, "too_many_requests")
                    held = other.post(
                        "/jobs/erase",
                        json={"concepts": ["church"], "method": "uce"},
                        headers={"Prefer": "wait=30"},
                    )
                    assert (held.status_code, "preference-applied" in held.headers) == (
                        202,
                        False,
                    ), "made, and not waited for"
            until(lambda: begun(third, path))  # when the service has seen that the others are closed

    def test_a_download_breaks_off_when_its_key_ends(
        self, tenant: Tenant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(sendfile, "KEY_CHECK_BYTES", 16 * MIB)
        (made,) = tenant.finish(tenant.erase()["id"], {"a.bin": bytes(48 * MIB)}, tmp_path)
        received = 0
        with (
            tenant.http().stream("GET", f"/artifacts/{made.id}/content") as answer,
            suppress(httpx.RemoteProtocolError),
        ):
            for chunk in answer.iter_raw():
                if not received:
                    revoke_all(tenant)
                received += len(chunk)
        assert received == 16 * MIB


@contextmanager
def opened(client: httpx.Client, path: str) -> Iterator[None]:
    """A stream that has begun."""
    with client.stream("GET", path, headers=STREAM) as answer:
        assert answer.status_code == 200
        lines = answer.iter_lines()
        next(lines)
        yield


def begun(client: httpx.Client, path: str) -> bool:
    with client.stream("GET", path, headers=STREAM) as answer:
        return answer.status_code == 200


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "did not happen"
        time.sleep(0.05)


class TestSlowClients:
    @pytest.fixture
    def hasty(self, limited, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tenant]:
        monkeypatch.setattr(server, "HEAD_SECONDS", 1.0)
        monkeypatch.setattr(server, "BODY_SECONDS", 1.0)
        with limited(rate_limits=False) as tenant:
            yield tenant

    def connect(self, tenant: Tenant, sent: bytes) -> socket.socket:
        where = urlsplit(tenant.url)
        made = socket.create_connection((where.hostname, where.port), timeout=60)
        made.sendall(sent)
        return made

    @pytest.mark.parametrize(
        "sent",
        [
            b"",
            b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: ",
            b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET /he",
        ],
    )
    def test_heads_that_do_not_end_are_hung_up_on_and_others_are_served(self, hasty: Tenant, sent: bytes):
        half = [self.connect(hasty, sent) for _ in range(50)]
        assert httpx.get(f"{hasty.url}/healthz").status_code == 200
        for each in half:
            assert everything(each).endswith(server.TIMEOUT)

    def test_a_head_that_drips_is_no_better(self, hasty: Tenant):
        slow = self.connect(hasty, b"GET /healthz HTTP/1.1\r\nHost: x\r\n")
        slow.settimeout(0.05)
        found = None
        while found is None:
            with suppress(TimeoutError):
                found = slow.recv(1000)
            slow.sendall(b"X-A: 1\r\n")
        assert found == server.TIMEOUT

    @pytest.mark.parametrize(
        ("path", "media_type"), [("/jobs/erase", "application/json"), ("/artifacts", "image/png")]
    )
    def test_a_body_that_does_not_come_is_hung_up_on(self, hasty: Tenant, path: str, media_type: str):
        head = (
            f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {hasty.key()}\r\nContent-Type:"
            f" {media_type}\r\nContent-Length: 5000\r\n\r\n{{"
        )
        assert everything(self.connect(hasty, head.encode())) == server.TIMEOUT

    def test_more_half_heads_than_there_is_room_for_make_room_themselves(
        self, limited, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(server, "HEAD_SECONDS", 600.0)
        monkeypatch.setattr(server, "MAX_INCOMPLETE_HEADS", 20)
        with limited(rate_limits=False) as tenant:
            half = [self.connect(tenant, b"GET /he") for _ in range(60)]
            for each in half[:40]:
                assert everything(each) == server.TIMEOUT
            assert httpx.get(f"{tenant.url}/healthz").status_code == 200
            for each in half[41:]:
                each.sendall(b"althz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                assert everything(each).startswith(b"HTTP/1.1 200")

    def test_many_clients_at_once_are_no_slow_ones(self, limited, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(server, "MAX_INCOMPLETE_HEADS", 20)
        with limited(rate_limits=False) as tenant:
            many = [self.connect(tenant, b"GET /healthz HTTP/1.1\r\nHost: x\r\n") for _ in range(100)]
            for each in many:
                each.sendall(b"Connection: close\r\n\r\n")
            assert all(everything(each).startswith(b"HTTP/1.1 200") for each in many)

    def test_who_keeps_a_connection_and_asks_again_is_served(self, hasty: Tenant):
        with httpx.Client(base_url=hasty.url) as client:
            for _ in range(3):
                assert client.get("/healthz").status_code == 200
                time.sleep(1.2)

    def test_health_answers_while_every_thread_is_busy(self, hasty: Tenant):
        """The locks of a hundred requests are held in the database; the process says that it lives."""
        admin = hasty.key()
        with db.transaction(hasty.database) as session:
            session.connection().exec_driver_sql("lock table jobs in access exclusive mode")
            threads = [threading.Thread(target=ask, args=(hasty.url, admin)) for _ in range(60)]
            for thread in threads:
                thread.start()
            time.sleep(0.5)
            assert httpx.get(f"{hasty.url}/healthz", timeout=5).status_code == 200
        for thread in threads:
            thread.join()


def ask(url: str, key: str) -> None:
    httpx.get(f"{url}/jobs", headers={"Authorization": f"Bearer {key}"}, timeout=60)


def everything(end: socket.socket) -> bytes:
    """All that comes until the other side hangs up."""
    found = b""
    with end:
        while data := end.recv(65536):
            found += data
    return found
