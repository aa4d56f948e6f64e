"""Real parts for every test: one PostgreSQL and one Redis for each process that runs tests, migrated, and
emptied between tests; and the ledger of them all.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import redis as redis_py
from sqlalchemy.orm import Session

from expunge.embedded import servers
from expunge.store import db, keys, migrate, roles
from expunge.store.models import Base, Tenant
from expunge.store.settings import Settings
from tests.support import ledger
from tests.support.service_role import as_service
from tests.support.strict import pytest_runtest_makereport

__all__ = ["pytest_runtest_makereport"]
SECRET = "0123456789abcdef" * 4


@pytest.fixture(scope="session")
def server_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="expunge-tests-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def running(program: servers.Program, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    log = folder / f"{program.name}.log"
    process = servers.spawn(program, log)
    try:
        servers.wait_ready(program, process, log)
        yield process
    finally:
        servers.stop(program, process)


@pytest.fixture(scope="session")
def postgres_url(server_folder: Path) -> Iterator[str]:
    """A real PostgreSQL, migrated."""
    # The server may be lost with the session, so it need not wait for the disk.
    program, url = servers.postgres_program(
        server_folder, servers.find_free_port(), ["-c", "fsync=off", "-c", "max_connections=200"]
    )
    for _ in running(program, server_folder):
        migrate.upgrade(url)
        roles.grant(url, as_service(url))
        yield url
        for each in (url, as_service(url)):
            db.engine(each).dispose()


@pytest.fixture(scope="session")
def redis_url(server_folder: Path) -> Iterator[str]:
    """A real Redis with an append-only file."""
    program, url = servers.redis_program(server_folder, servers.find_free_port())
    for _ in running(program, server_folder):
        yield url


@pytest.fixture(scope="session")
def s3_url(server_folder: Path) -> Iterator[str]:
    """A server that speaks S3, a process of its own."""
    port = servers.find_free_port()
    url = f"http://127.0.0.1:{port}"

    def ready() -> bool:
        try:
            return httpx.get(f"{url}/moto-api/").status_code == 200
        except httpx.TransportError:
            return False

    program = servers.Program(
        "s3", [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], ready=ready
    )
    for _ in running(program, server_folder):
        yield url


@pytest.fixture
def bucket(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """EXPUNGE_ARTIFACTS_URL of an empty bucket, with what the environment needs to reach it."""
    name = f"artifacts-{uuid.uuid4()}"
    assert httpx.put(f"{s3_url}/{name}").status_code == 200
    for variable, value in {
        "ENDPOINT_URL": s3_url,
        "ACCESS_KEY_ID": "id",
        "SECRET_ACCESS_KEY": "key",
        "REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(f"AWS_{variable}", value)
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    return f"s3://{name}/expunge"


@pytest.fixture
def database_url(postgres_url: str) -> str:
    """The session's database with every table empty."""
    kept = {"deployment"}  # the artifact stores of the session are marked with its id
    # Tables hold few rows here: deleting them costs a fifth of truncating seventeen tables
    emptied = [
        f'delete from "{table.name}"' for table in Base.metadata.sorted_tables if table.name not in kept
    ]
    with psycopg.connect(postgres_url) as connection:
        # The audit's own trigger refuses it otherwise
        connection.execute("set session_replication_role = replica")
        connection.execute("; ".join(emptied))
    return postgres_url


@pytest.fixture
def broker_url(redis_url: str) -> str:
    """The session's Redis, empty."""
    client = redis_py.Redis.from_url(redis_url)
    client.flushall()
    client.close()
    return redis_url


@pytest.fixture
def settings(database_url: str, broker_url: str, tmp_path: Path) -> Settings:
    """Settings with short leases, for tests that do not wait; the service's role, which owns no table."""
    values = {
        "database_url": as_service(database_url),
        "redis_url": broker_url,
        "artifacts_url": (tmp_path / "artifacts").as_uri(),
        "secret": SECRET,
        "cache_dir": tmp_path / "cache",
        "lease_seconds": 2,
        "heartbeat_seconds": 0.3,
        "reaper_seconds": 0.3,
        "dispatch_seconds": 0.2,
        "redispatch_after_seconds": 1,
        "backoff_seconds": 0.1,
        "progress_seconds": 0,
        "cancel_seconds": 2,
        "soft_shutdown_seconds": 5,
        "self_test_seconds": 0.3,
        # Tests ask more often than people; those of the limits switch them on
        "rate_limits": False,
    }
    return Settings.model_validate(values)


@pytest.fixture
def session(database_url: str) -> Iterator[Session]:
    """A session on the clean database; the test commits."""
    with Session(db.engine(database_url), expire_on_commit=False) as opened:
        yield opened


@pytest.fixture
def tenant(database_url: str) -> Tenant:
    with db.transaction(database_url) as opened:
        return keys.ensure_tenant(opened, "default")


@pytest.fixture
def other_tenant(database_url: str) -> Tenant:
    with db.transaction(database_url) as opened:
        return keys.ensure_tenant(opened, "other")


@pytest.fixture
def api_key(database_url: str, tenant: Tenant) -> str:
    """A key of the default tenant with every scope."""
    with db.transaction(database_url) as opened:
        return keys.create(opened, SECRET, tenant.id, name="test")[1]


@pytest.fixture
def unknown_id() -> uuid.UUID:
    return uuid.uuid4()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The slow ones first, so that no core waits for the last of them."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A process that runs a part of the tests hands its ledgers to the one that reports."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["ledgers"] = [asdict(each) for each in ledger.BOOK]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    ledger.BOOK.extend(ledger.Ledger(**each) for each in getattr(node, "workeroutput", {}).get("ledgers", []))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The ledger of this session, printed and written to faults.json."""
    if ledger.BOOK:
        whole = ledger.total(ledger.BOOK)
        whole.write(ledger.REPORTS / "faults.json")
        terminalreporter.section("ledger")
        terminalreporter.write_line(ledger.told(whole))


def kill(pid: int, sig: signal.Signals = signal.SIGKILL) -> None:
    os.kill(pid, sig)
