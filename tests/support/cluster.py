"""Real worker processes for tests that kill them."""

import os
import signal
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from sqlalchemy import Row

from expunge.embedded.servers import find_free_port
from expunge.store import db, jobs, keys
from expunge.store.models import Job
from expunge.store.settings import Settings
from expunge.store.settings_names import variable
from tests.support.events import events_of
from tests.support.places import PYTHONPATH


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    """Look again and again; fail after a generous bound."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen"
        time.sleep(0.05)


def alive(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz", timeout=2).status_code == 200
    except httpx.TransportError:
        return False


class Fleet:
    """Workers and loops of one test, on its database, broker and artifact store."""

    def __init__(self, settings: Settings, folder: Path, tenant_id: uuid.UUID) -> None:
        self.settings, self.folder, self.tenant_id = settings, folder, tenant_id
        self.url = settings.database_url.get_secret_value()
        self.processes: list[psutil.Popen] = []
        self.urls: list[str] = []  # of the APIs
        self.trace, self.go = folder / "trace", folder / "go"
        self.accepted: list[uuid.UUID] = []
        self.faults: list[str] = []
        self.kills = 0  # attempts that the faults may have cost
        self.closed = False  # whether its ledger was read

    def environment(self, **changes: str) -> dict[str, str]:
        shown = {
            name: value.get_secret_value() if hasattr(value, "get_secret_value") else value
            for name in Settings.model_fields
            if isinstance(value := getattr(self.settings, name), str | float | int | Path)
            or hasattr(value, "get_secret_value")
        }
        named = {variable(name): str(value) for name, value in shown.items()}
        steps = {"EXPUNGE_RUNNER": "tests.support.step_runner:run", "STEPS_FOLDER": str(self.folder)}
        return {
            **os.environ,
            **named,
            **steps,
            "PYTHONPATH": PYTHONPATH,
            "COVERAGE_PROCESS_START": "",
            **changes,
        }

    def start(self, *argv: str, **changes: str) -> psutil.Popen:
        log = self.folder / f"process-{len(self.processes)}.log"
        with log.open("wb") as out:
            process = psutil.Popen(
                [sys.executable, "-m", *argv],
                env=self.environment(**changes),
                stdout=out,
                stderr=out,
                cwd=self.folder,
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def worker(self, **changes: str) -> psutil.Popen:
        arguments = (
            "-A",
            "expunge.worker.app",
            "worker",
            "-c",
            "1",
            "--without-gossip",
            "--without-mingle",
            "-l",
            "WARNING",
        )
        return self.start("celery", *arguments, **changes)

    def api(self, **changes: str) -> tuple[psutil.Popen, str]:
        """An API process that answers, and its URL."""
        port = find_free_port()
        url = f"http://127.0.0.1:{port}"
        argv = ("expunge.api", "--port", str(port))
        process = self.start(*argv, **changes)
        self.urls.append(url)
        until(lambda: not process.is_running() or alive(url))
        assert process.is_running(), (self.folder / f"process-{len(self.processes) - 1}.log").read_text()[
            -2000:
        ]
        return process, url

    def key(self) -> str:
        """An API key of the tenant with every scope."""
        with db.transaction(self.url) as session:
            return keys.create(session, self.settings.secret.get_secret_value(), self.tenant_id, name="test")[
                1
            ]

    def loops(self) -> psutil.Popen:
        return self.start("expunge.worker.loops")

    def runs(self, program: str) -> bool:
        """Whether a process of it lives: "celery" or "expunge.worker.loops"."""
        return any(process.poll() is None and program in process.cmdline() for process in self.processes)

    def post(self, **spec: object) -> uuid.UUID:
        """A job for tests/support/step_runner.py; the dispatcher sends its wake-up message."""
        whole = {"steps": 12, "every": 3, "trace": str(self.trace), "go": str(self.go), **spec}
        limits = {
            name: whole.pop(name)
            for name in ("run_timeout_s", "queue_timeout_s", "max_attempts")
            if name in whole
        }
        with db.transaction(self.url) as session:
            job_id = jobs.create_job(session, self.tenant_id, "erase", whole, **limits).id  # type: ignore[arg-type]
        self.accepted.append(job_id)
        return job_id

    def job(self, job_id: uuid.UUID) -> Job:
        """Whosever it is."""
        with db.transaction(self.url) as session:
            return session.get_one(Job, job_id)

    def cancel(self, job_id: uuid.UUID) -> Job:
        with db.transaction(self.url) as session:
            return jobs.cancel(session, self.tenant_id, job_id)

    def events(self, job_id: uuid.UUID) -> Sequence[Row[Any]]:
        with db.transaction(self.url) as session:
            return events_of(session, self.tenant_id, job_id)

    def until_status(self, job_id: uuid.UUID, *statuses: str) -> Job:
        until(lambda: self.job(job_id).status in statuses)
        return self.job(job_id)

    def until_step(self, job_id: uuid.UUID, step: int) -> None:
        until(lambda: ((self.job(job_id).progress or {}).get("step") or 0) >= step)

    def steps(self) -> list[tuple[int, int]]:
        """(attempt, step) in the order in which they were run."""
        return [tuple(map(int, line.split())) for line in self.trace.read_text().splitlines()]  # type: ignore[misc]

    def fault(self, name: str, costs: int = 0) -> None:
        """Note a fault, and how many attempts it may cost."""
        self.faults.append(name)
        self.kills += costs

    def signal(self, process: psutil.Process, number: signal.Signals) -> None:
        """To a process and its children, as if their host were gone (or paused)."""
        self.faults.append(number.name)
        self.kills += number in (signal.SIGKILL, signal.SIGSTOP)
        for each in [process, *process.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                each.send_signal(number)

    def end(self) -> None:
        for process in self.processes:
            with suppress(psutil.NoSuchProcess):
                for each in [process, *process.children(recursive=True)]:
                    each.kill()
            process.wait()


@pytest.fixture
def fleet(settings: Settings, tmp_path: Path, tenant) -> Iterator[Fleet]:
    made = Fleet(settings, tmp_path, tenant.id)
    yield made
    made.end()


@pytest.fixture
def finished(fleet: Fleet) -> Callable[[uuid.UUID, int], None]:
    """finished(job_id, steps): the job's one artifact is what an undisturbed run makes, and its events have
    no gap and one end.
    """

    def check(job_id: uuid.UUID, steps: int) -> None:
        import hashlib

        from expunge.store import artifacts
        from expunge.store.blobs import Blobs
        from tests.support.step_runner import digest

        job = fleet.until_status(job_id, "succeeded", "failed", "cancelled")
        assert job.status == "succeeded", job.error
        with db.transaction(fleet.url) as session:
            (row,) = artifacts.list_of_job(session, fleet.tenant_id, job_id)
        content = b"".join(Blobs(fleet.settings.artifacts_url).read(row.key))
        assert content == digest(steps)
        assert row.sha256 == hashlib.sha256(content).hexdigest()
        events = fleet.events(job_id)
        assert [e.seq for e in events] == list(range(1, job.version + 1))
        assert sum(e.type in ("succeeded", "failed", "cancelled", "expired") for e in events) == 1

    return check
