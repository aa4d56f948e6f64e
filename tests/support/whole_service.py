"""A whole service of real processes on servers of its own: what the fault tests, the soak and the load run
on.
"""

import signal
import subprocess
import tempfile
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
from sqlalchemy.engine import make_url

from expunge.embedded import servers
from expunge.store import db, keys, migrate, roles
from expunge.store.settings import Settings
from tests.support import ledger
from tests.support.cluster import Fleet, alive, until
from tests.support.service_role import as_service
from tests.support.tcp_proxy import Proxy

SECRET = "0123456789abcdef" * 4
QUICK: dict[str, Any] = {
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
    "max_attempts": 10,
    "rate_limits": False,
    "metrics_public": True,
}
JOB = {"concepts": ["church"], "method": {"name": "esd", "steps": 12, "checkpoint_every": 3}}


class Stage(Fleet):
    """PostgreSQL and Redis that may be killed and started again, each behind a proxy that may be cut;
    APIs, workers and loops on top.
    """

    def __init__(self, folder: Path, *, append_only: bool = True, **settings: Any) -> None:
        self.data = Path(tempfile.mkdtemp(prefix="expunge-stage-"))
        self.programs: dict[str, servers.Program] = {}
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.programs["postgres"], database = servers.postgres_program(
            self.data, servers.find_free_port(), ["-c", "max_connections=300"]
        )
        self.programs["redis"], broker = servers.redis_program(self.data, servers.find_free_port())
        if not append_only:
            config = self.data / "redis.conf"
            config.write_text(config.read_text().replace("appendonly yes", "appendonly no"))
        for name in self.programs:
            self.open(name)
        self.proxies = {"postgres": behind(database), "redis": behind(broker)}
        self.direct = database
        migrate.upgrade(database)
        roles.grant(database, as_service(database))
        with db.transaction(database) as session:
            tenant = keys.ensure_tenant(session, "default").id
        made = Settings(
            database_url=through(as_service(database), self.proxies["postgres"]),
            redis_url=through(broker, self.proxies["redis"]),
            artifacts_url=(folder / "artifacts").as_uri(),
            secret=SECRET,
            **{**QUICK, **settings},
        )
        super().__init__(made, folder, tenant)
        self.bearer = {"Authorization": f"Bearer {self.key()}"}

    # The servers

    def open(self, name: str) -> None:
        program, log = self.programs[name], self.data / f"{name}.log"
        self.running[name] = servers.spawn(program, log)
        servers.wait_ready(program, self.running[name], log)

    def kill(self, name: str) -> None:
        """SIGKILL Redis; PostgreSQL is stopped at once, without a checkpoint (pg_ctl's `-m immediate`)."""
        process = self.running[name]
        process.send_signal(signal.SIGQUIT if name == "postgres" else signal.SIGKILL)
        process.wait()

    def kill_9(self, name: str) -> None:
        """SIGKILL a server and every process of its own, as a power cut does: it recovers from its files at
        the next start.
        """
        parent = psutil.Process(self.running[name].pid)
        family = [parent, *parent.children(recursive=True)]
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.running[name].wait()
        psutil.wait_procs(family)

    def end(self) -> None:
        super().end()
        db.engine.cache_clear()
        for proxy in self.proxies.values():
            proxy.close()
        for name, process in self.running.items():
            servers.stop(self.programs[name], process)

    # The client

    def post(self, url: str, key: str | None = None, timeout: float = 10, **spec: Any) -> httpx.Response:  # type: ignore[override]
        """POST /jobs/erase; what is accepted is noted for the ledger."""
        headers = self.bearer | ({"Idempotency-Key": key} if key else {})
        answer = httpx.post(f"{url}/jobs/erase", json={**JOB, **spec}, headers=headers, timeout=timeout)
        if answer.status_code == 202 and uuid.UUID(answer.json()["id"]) not in self.accepted:
            self.accepted.append(uuid.UUID(answer.json()["id"]))
        return answer

    def ledger(self, kills: int = 0) -> ledger.Ledger:
        """Once every job has ended and the broker is quiet.

        What is stored is swept, and downloaded from an API that answers.
        """
        until(lambda: self.unfinished() == 0, 180)
        until(lambda: ledger.quiet(self.settings), 180)
        url = next(filter(alive, self.urls), None) or self.api()[1]
        with httpx.Client(base_url=url, headers=self.bearer, timeout=60) as client:
            made = ledger.read(
                self.settings,
                self.accepted,
                faults=len(self.faults),
                kills=kills,
                names=self.faults,
                sweep=True,
                api=client,
            )
        ledger.BOOK.append(made)
        return made

    def unfinished(self) -> int:
        from sqlalchemy import func, select

        from expunge.store.models import Job
        from expunge.store.statuses import JobStatus

        with db.transaction(self.url) as session:
            return (
                session.scalar(
                    select(func.count()).select_from(Job).where(Job.status.in_(JobStatus.active()))
                )
                or 0
            )


def behind(url: str) -> Proxy:
    parsed = make_url(url)
    return Proxy(str(parsed.host), int(parsed.port or 0))


def through(url: str, proxy: Proxy) -> str:
    return make_url(url).set(port=proxy.port).render_as_string(hide_password=False)


def killed(process: psutil.Process) -> None:
    """SIGKILL, and wait until it is gone."""
    process.kill()
    process.wait()


def clean(stage: Stage, kills: int = 0) -> None:
    """The stage's ledger at quiet has nothing wrong in it."""
    book = stage.ledger(kills)
    assert not book.wrong, book
    assert book.jobs_lost == book.published_twice == book.bytes_wrong == 0
