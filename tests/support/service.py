"""The real app on a real port, and what a worker would do to a job, for the tests of api and client."""

import hashlib
import socket
import threading
import uuid
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
import redis
import uvicorn

from expunge.api.app import create_app
from expunge.api.server import config
from expunge.store import attempts, db, deployment, jobs, keys
from expunge.store.attempts import NewArtifact
from expunge.store.blobs import Blobs
from expunge.store.keys import SCOPES
from expunge.store.models import WITHHELD
from expunge.store.settings import Settings
from tests.support.service_role import as_service

SECRET = "a secret of at least thirty-two characters"
LEASE = timedelta(hours=1)
SCRAPER = {"Authorization": f"Bearer {SECRET}"}  # who reads the metrics however many strangers come


@contextmanager
def serve(settings: Settings, **options: object) -> Iterator[tuple[str, object]]:
    """The server of `python -m expunge.api` in a thread on a free port: (url, app)."""
    app = create_app(settings)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)
        server = uvicorn.Server(config(app, log_config=None, timeout_graceful_shutdown=2, **options))
        started = threading.Event()
        startup = server.startup

        async def announce(sockets: list[socket.socket] | None = None) -> None:
            await startup(sockets)
            started.set()

        server.startup = announce  # type: ignore[method-assign]
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        assert started.wait(30)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}", app
        finally:
            server.should_exit = True
            thread.join()


class Tenant:
    """A tenant of a running service, with as many keys as a test needs; and the hands of a worker."""

    def __init__(self, url: str, settings: Settings) -> None:
        self.url, self.settings = url, settings
        self.database = settings.database_url.get_secret_value()
        self.clients: list[httpx.Client] = []
        with db.transaction(self.database) as session:
            self.id = keys.ensure_tenant(session, f"tenant-{uuid.uuid4()}").id

    def key(self, *scopes: str, **facts: object) -> str:
        with db.transaction(self.database) as session:
            return keys.create(session, SECRET, self.id, name="test", scopes=scopes or SCOPES, **facts)[1]

    def http(self, *scopes: str) -> httpx.Client:
        """A client with a key of these scopes (all when none is named)."""
        client = httpx.Client(
            base_url=self.url, headers={"Authorization": f"Bearer {self.key(*scopes)}"}, timeout=30
        )
        self.clients.append(client)
        return client

    def erase(self, **spec: object) -> dict:
        answer = self.http().post("/jobs/erase", json={"concepts": ["church"], "method": "uce", **spec})
        assert answer.status_code == 202, answer.text
        return answer.json()

    def claim(self, job_id: str) -> int:
        """Start the job as a worker does; its fence."""
        with db.transaction(self.database) as session:
            job = attempts.claim(session, uuid.UUID(job_id), owner="test", lease=LEASE)
            assert job is not None
            return job.fence

    def progress(self, job_id: str, fence: int, step: int, total: int = 10) -> None:
        with db.transaction(self.database) as session:
            attempts.report_progress(
                session, uuid.UUID(job_id), fence, {"phase": "erase", "step": step, "total": total}
            )

    def fail(self, job_id: str, fence: int) -> None:
        with db.transaction(self.database) as session:
            attempts.fail(
                session, uuid.UUID(job_id), fence, code="diverged", message="the loss is NaN", retryable=True
            )

    def publish(
        self,
        job_id: str,
        fence: int,
        files: dict[str, bytes],
        folder: Path,
        verdict: dict | None = None,
        withheld: Collection[str] = (),
    ) -> list[NewArtifact]:
        """Store files and end the job, as a worker does."""
        made = []
        for name, content in files.items():
            path = folder / uuid.uuid4().hex
            path.write_bytes(content)
            key = f"{self.id}/{job_id}/1-{fence}/{uuid.uuid4()}"
            Blobs(self.settings.artifacts_url).put(key, path)
            kind = "recovery_key" if name.startswith("recovery_key") else "file"
            made.append(
                NewArtifact(
                    uuid.uuid4(),
                    name,
                    "application/octet-stream",
                    len(content),
                    hashlib.sha256(content).hexdigest(),
                    key,
                    kind,
                    {WITHHELD: True} if name in withheld else {},
                )
            )
        with db.transaction(self.database) as session:
            attempts.publish(session, uuid.UUID(job_id), fence, made, verdict=verdict, progress=None)
        return made

    def finish(
        self,
        job_id: str,
        files: dict[str, bytes],
        folder: Path,
        verdict: dict | None = None,
        withheld: Collection[str] = (),
    ) -> list[NewArtifact]:
        return self.publish(job_id, self.claim(job_id), files, folder, verdict, withheld)

    def count(self) -> int:
        with db.transaction(self.database) as session:
            return len(jobs.list_jobs(session, self.id, limit=1000))


@pytest.fixture(scope="session")
def settings(postgres_url: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings of the service under test, its artifacts in a directory."""
    made = make_settings(postgres_url, redis_url, tmp_path_factory.mktemp("artifacts"))
    deployment.open_store(made)  # marked before tests store anything behind the service's back
    return made


def make_settings(database_url: str, redis_url: str, folder: Path, **more: object) -> Settings:
    # Tests ask more often than people; those of the limits switch them on.
    given = {"rate_limits": False, "metrics_public": True, "metrics_token": SECRET, **more}
    return Settings(
        database_url=as_service(database_url),
        redis_url=redis_url,
        artifacts_url=folder.as_uri(),
        secret=SECRET,
        **given,
    )


def fill_buckets(redis_url: str) -> None:
    """The rate limits forget what earlier tests asked for."""
    with redis.Redis.from_url(redis_url) as client:
        client.delete(*client.keys("expunge:rate:*") or ["none"])


@pytest.fixture
def limited(
    postgres_url: str, redis_url: str, tmp_path: Path
) -> Callable[..., AbstractContextManager[Tenant]]:
    """limited(name=value…): a tenant of a service with rate limits and these settings."""

    @contextmanager
    def made(**more: object) -> Iterator[Tenant]:
        fill_buckets(redis_url)
        settings = make_settings(postgres_url, redis_url, tmp_path, **{"rate_limits": True, **more})
        with serve(settings) as (url, _):
            yield Tenant(url, settings)

    return made


@pytest.fixture(scope="session")
def service(settings: Settings) -> Iterator[str]:
    with serve(settings) as (url, _):
        yield url


@pytest.fixture
def tenant(service: str, settings: Settings) -> Iterator[Tenant]:
    """A fresh tenant, so that tests need not clean up after each other."""
    made = Tenant(service, settings)
    yield made
    for client in made.clients:
        client.close()


@pytest.fixture
def other(service: str, settings: Settings) -> Iterator[Tenant]:
    """Somebody else."""
    made = Tenant(service, settings)
    yield made
    for client in made.clients:
        client.close()


@pytest.fixture
def anonymous(service: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service, timeout=30) as client:
        yield client


def problem(answer: httpx.Response, status: int, code: str) -> dict:
    """The problem in an answer, checked for what every problem has."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    found = answer.json()
    assert found["code"] == code, found
    assert found["status"] == status
    assert found["type"].endswith(code)
    assert found["request_id"] == answer.headers["x-request-id"]
    return found


def errors(answer: httpx.Response) -> dict[str, str]:
    """field -> message and remedy, of a 422."""
    found = problem(answer, 422, "invalid_request")
    return {e["field"]: f"{e['message']} {e.get('remedy', '')}" for e in found["errors"]}
