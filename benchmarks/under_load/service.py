"""The whole service on loopback, as `expunge up` starts it, on PostgreSQL and Redis of its own; only its jobs
are tiny.
"""

import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from expunge.embedded import servers, up
from expunge.embedded.servers import Program
from expunge.embedded.supervise import Supervisor
from expunge.store.settings import Settings

ROOT = Path(__file__).parents[2]
JOB = {"concepts": ["church"], "method": {"name": "esd", "steps": 3}, "evaluation": {"enabled": False}}
# What is not the measure of a single process's speed: how much a tenant may have at once, and ask a minute.
LIFTED = {
    "EXPUNGE_MAX_ACTIVE_JOBS": "1000000",
    "EXPUNGE_READS_PER_MINUTE": "600000",
    "EXPUNGE_WRITES_PER_MINUTE": "600000",
    "EXPUNGE_MAX_STREAMS": "4000",
}


class Loaded:
    """A running service: where it answers, and its processes by name."""

    def __init__(self, children: Supervisor, folder: Path, made: up.Service) -> None:
        self.children, self.folder, self.url, self.key = children, folder, made.url, made.api_key
        self.settings = Settings()
        self.hold = folder / "hold"

    def process(self, name: str) -> psutil.Process:
        return psutil.Process(next(c.process.pid for c in self.children.children if c.program.name == name))

    def start(self, name: str, *argv: str, ready: Callable[[], bool] = lambda: True) -> None:
        """One more process beside the service's, in its environment."""
        self.children.start(Program(name, list(argv), ready=ready, cwd=ROOT))

    def stop(self, *names: str) -> None:
        for child in [c for c in self.children.children if c.program.name in names]:
            servers.stop(child.program, child.process)
            self.children.children.remove(child)

    def client(self, what: str, *arguments: str) -> subprocess.Popen[str]:
        """A client of its own process: see client.py."""
        argv = [sys.executable, "-m", "benchmarks.under_load.client", what, *arguments]
        return subprocess.Popen(
            argv, cwd=ROOT, env={**os.environ, "LOAD_KEY": self.key}, stdout=subprocess.PIPE, text=True
        )


@contextmanager
def loaded() -> Iterator[Loaded]:
    """PostgreSQL, Redis, API, loops and a worker; gone at the end."""
    with tempfile.TemporaryDirectory(prefix="expunge-load-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        children = Supervisor(folder)
        try:
            database = up.start_program(
                children,
                servers.postgres_program(
                    folder, servers.find_free_port(), ["-c", "track_commit_timestamp=on"]
                ),
            )
            broker = up.start_program(children, servers.redis_program(folder, servers.find_free_port()))
            os.environ |= LIFTED | {
                "EXPUNGE_DATABASE_URL": database,
                "EXPUNGE_REDIS_URL": broker,
                "EXPUNGE_ARTIFACTS_URL": (folder / "artifacts").as_uri(),
                "EXPUNGE_SECRET": servers.ensure_password(folder / "secret"),
                "EXPUNGE_RUNNER": "benchmarks.under_load.runner:run",
                "LOAD_FOLDER": str(folder),
            }
            yield Loaded(children, folder, up.start(children, folder, "127.0.0.1", 0, workers=1))
        finally:
            children.stop()


def answers(url: str) -> bool:
    """Whether anything answers there, with whatever status."""
    try:
        urllib.request.urlopen(url, timeout=2).close()  # noqa: S310
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def until(condition: Callable[[], object], seconds: float = 120) -> None:
    """Look again and again; TimeoutError after so long."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("it did not come about")
        time.sleep(0.05)
