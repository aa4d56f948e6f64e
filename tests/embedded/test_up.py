"""`expunge up` as a person and a script meet it."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import psycopg
import pytest

from expunge.store.settings_names import variable
from tests.support.places import PYTHONPATH

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="expunge-up-", ignore_cleanup_errors=True) as made:
        yield Path(made) / "a data dir"


def command(process: psutil.Process) -> str:
    """Its command line; empty for one that has just died."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


class Up:
    """One `expunge up --json` process and the line it prints."""

    def __init__(self, folder: Path, *options: str) -> None:
        fields = ("database_url", "redis_url", "artifacts_url", "secret", "signing_key")
        names = {name for field in fields for name in (variable(field), field.upper())}
        environment = {name: value for name, value in os.environ.items() if name not in names}
        short = {
            "EXPUNGE_LEASE_SECONDS": "3",
            "EXPUNGE_HEARTBEAT_SECONDS": "0.5",
            "EXPUNGE_REAPER_SECONDS": "0.5",
            "EXPUNGE_DISPATCH_SECONDS": "0.3",
            "EXPUNGE_BACKOFF_SECONDS": "0.1",
            "EXPUNGE_RATE_LIMITS": "false",  # the tests look twenty times a second
        }
        runner = {
            "EXPUNGE_RUNNER": "tests.support.step_runner:run",
            "PYTHONPATH": PYTHONPATH,
            "EXPUNGE_SOFT_SHUTDOWN_SECONDS": "10",
        }
        argv = [
            sys.executable,
            "-m",
            "expunge.embedded",
            "--data-dir",
            str(folder),
            "--port",
            "0",
            "--json",
            *options,
        ]
        self.process = psutil.Popen(
            argv,
            env=environment | short | runner,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            start_new_session=True,
        )

    def ready(self) -> dict[str, str]:
        line = self.process.stdout.readline()
        assert line, self.process.stderr.read()
        self.said = json.loads(line)
        return self.said

    def get(self, path: str) -> dict:
        request = urllib.request.Request(
            self.said["url"] + path, headers={"Authorization": f"Bearer {self.said['api_key']}"}
        )
        with urllib.request.urlopen(request, timeout=10) as response:
            return json.load(response)

    def post(self, folder: Path, **spec: object) -> str:
        """A job for tests/support/step_runner.py, straight into the queue."""
        from expunge.store import db, jobs, keys

        whole = {"steps": 12, "every": 3, "trace": str(folder / "trace"), "go": str(folder / "go"), **spec}
        with db.transaction(self.database()) as session:
            tenant = keys.ensure_tenant(session, "default")
            return str(jobs.create_job(session, tenant.id, "erase", whole).id)

    def database(self) -> str:
        loops = next(p for p in self.process.children() if "expunge.worker.loops" in command(p))
        return loops.environ()["EXPUNGE_DATABASE_URL"]

    def named(self, *words: str) -> psutil.Process:
        return next(p for p in self.process.children() if any(w in command(p) for w in words))

    def end(self) -> None:
        with suppress(psutil.NoSuchProcess):
            family = [self.process, *self.process.children(recursive=True)]
            for each in family:
                with suppress(psutil.NoSuchProcess):
                    each.kill()
            psutil.wait_procs(family, timeout=20)
        self.process.communicate()


@pytest.fixture
def up(folder: Path) -> Iterator[Callable[..., Up]]:
    made: list[Up] = []

    def start(*options: str) -> Up:
        made.append(Up(folder, *options))
        return made[-1]

    yield start
    for each in made:
        each.end()


def until(condition: Callable[[], object], seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen"
        time.sleep(0.1)


def test_first_start_is_ready_when_it_says_so_and_ctrl_c_stops_all(up, folder):
    service = up()
    said = service.ready()
    assert set(said) == {"url", "api_key", "data_dir", "pid"}
    assert (said["data_dir"], said["pid"]) == (str(folder), service.process.pid)
    with urllib.request.urlopen(said["url"] + "/readyz") as response:
        assert response.status == 200
    assert service.get("/jobs")["items"] == []
    assert [key["public_key"] for key in service.get("/signing-keys")["items"]] == [
        (folder / "signing_key.pem.pub").read_text()
    ]
    with psycopg.connect(service.database(), autocommit=True) as connection:
        assert connection.execute(
            "select rolsuper from pg_roles where rolname = current_user"
        ).fetchone() == (False,)
        for statement in (
            "delete from audit",
            "copy jobs to program 'true'",
            "create table x (y int)",
            "drop table jobs",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)
    owner = (folder / "postgres.password").read_text()
    assert not any(
        owner in value for process in service.process.children() for value in process.environ().values()
    )
    for name in (
        "api_key",
        "secret",
        "signing_key.pem",
        "postgres.password",
        "service.password",
        "redis.password",
        "redis.conf",
    ):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600, name
    family = service.process.children(recursive=True)
    service.process.send_signal(signal.SIGINT)
    assert service.process.wait(60) == 0
    assert psutil.wait_procs(family, timeout=10)[1] == []


def test_ctrl_c_in_the_middle_of_a_job_loses_nothing(up, folder):
    first = up()
    first.ready()
    job_id = first.post(folder, hold=8)
    until(lambda: (first.get(f"/jobs/{job_id}")["progress"] or {}).get("step", 0) >= 8)
    first.process.send_signal(signal.SIGTERM)
    assert first.process.wait(60) == 0
    (folder / "go").touch()
    second = up()
    assert second.ready()["api_key"] == first.said["api_key"], "scripts go on with the key they have"
    until(lambda: second.get(f"/jobs/{job_id}")["status"] == "succeeded")
    job = second.get(f"/jobs/{job_id}")
    assert job["attempt"] == 1, "a hand-over is not charged"
    assert [a["name"] for a in job["artifacts"]] == ["result.bin"]
    assert (folder / "trace").read_text().splitlines()[8] == "1 6", "from the last checkpoint"


@pytest.mark.parametrize("whole_family", [True, False], ids=["everything killed", "only the parent killed"])
def test_kill_9_and_start_again(up, folder, whole_family):
    first = up()
    first.ready()
    job_id = first.post(folder, hold=8)
    until(lambda: (first.get(f"/jobs/{job_id}")["progress"] or {}).get("step", 0) >= 8)
    family = [first.process, *first.process.children(recursive=True)]
    for each in family if whole_family else family[:1]:
        with suppress(psutil.NoSuchProcess):
            each.kill()
    (folder / "go").touch()
    second = up()
    second.ready()
    until(lambda: second.get(f"/jobs/{job_id}")["status"] == "succeeded")
    old = {p.pid for p in family}
    assert not [p for p in family if p.is_running() and p.status() != psutil.STATUS_ZOMBIE and p.pid in old]


def test_children_that_die_are_started_again(up, folder):
    service = up()
    service.ready()
    pids = {
        name: service.named(name).pid
        for name in ("-m expunge.api", "redis-server", "expunge.worker.app", "expunge.worker.loops")
    }
    for pid in pids.values():
        psutil.Process(pid).kill()

    def all_back() -> bool:
        now = {name: [p for p in service.process.children() if name in command(p)] for name in pids}
        return all(found and found[0].pid != pids[name] for name, found in now.items())

    until(all_back)
    job_id = service.post(folder)

    def succeeded() -> bool:
        with suppress(OSError):
            return service.get(f"/jobs/{job_id}")["status"] == "succeeded"
        return False

    until(succeeded)
    assert "redis: ended with code -9" in (folder / "logs" / "up.log").read_text()


def test_port_in_use_is_said_before_anything_starts(up, folder):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        service = up("--port", str(taken.getsockname()[1]))
        assert service.process.wait(60) == 1
        error = service.process.stderr.read()
    assert "choose another --port" in error
    assert "Traceback" not in error
    assert not (folder / "postgres").exists()


def test_second_up_on_a_directory_is_refused(up, folder):
    first = up()
    first.ready()
    second = up()
    assert second.process.wait(60) == 1
    error = second.process.stderr.read()
    assert f"pid {first.process.pid}" in error
    assert "another --data-dir" in error
    with urllib.request.urlopen(first.said["url"] + "/readyz") as response:
        assert response.status == 200


def test_own_servers_replace_the_embedded_ones(folder, postgres_url, broker_url, monkeypatch):
    import psycopg
    from sqlalchemy.engine import make_url

    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("drop database if exists own with (force)")
        connection.execute("create database own")
    own = make_url(postgres_url).set(database="own").render_as_string(hide_password=False)
    service = Up.__new__(Up)
    servers = {"DATABASE_URL": own, "EXPUNGE_REDIS_URL": broker_url}  # a platform's name, and ours
    environment = {**os.environ, **servers, "PYTHONPATH": PYTHONPATH}
    argv = [
        sys.executable,
        "-m",
        "expunge.embedded",
        "--data-dir",
        str(folder),
        "--port",
        "0",
        "--json",
        "--workers",
        "0",
    ]
    service.process = psutil.Popen(
        argv,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        start_new_session=True,
    )
    try:
        service.ready()
        assert service.get("/jobs")["items"] == []
        assert not (folder / "postgres").exists()
        assert not (folder / "redis").exists()
    finally:
        service.end()


@pytest.mark.parametrize(
    ("where", "words"), [("postgres", "is no PostgreSQL"), ("artifacts", "has no marker and holds objects")]
)
def test_a_folder_with_files_of_somebody_else_s_is_refused_and_left_as_it_is(up, folder, where, words):
    dear = folder / where / "thesis" / "chapter-1.tex"
    dear.parent.mkdir(parents=True)
    dear.write_text("years of work")
    service = up()
    assert service.process.wait(90) == 1
    assert words in service.process.stderr.read()
    assert dear.read_text() == "years of work"
    assert [p for p in (folder / where).rglob("*") if p.is_file()] == [dear]
