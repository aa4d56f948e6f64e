"""Watches child processes: restarts those that die, stops them in order, keeps their logs short, and clears
away what a crash left behind.
"""

import json
import os
import shutil
import signal
import subprocess
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from expunge.embedded.servers import Program, spawn, stop, wait_ready

LOG_BYTES = 10 << 20  # of one log, and as much again of what came before
STEADY = 60.0  # seconds after which a restart counts as a success
SLOWEST = 30.0  # seconds between restarts, at most


@dataclass
class Child:
    """A program, its process, and how often it died lately."""

    program: Program
    process: subprocess.Popen[bytes]
    started: float = field(default_factory=time.monotonic)
    deaths: int = 0
    again_at: float | None = None


class Supervisor:
    """The running programs of one data directory, in the order in which they were started."""

    def __init__(self, folder: Path) -> None:
        self.logs, self.record = folder / "logs", folder / "children.json"
        self.logs.mkdir(exist_ok=True)
        self.children: list[Child] = []

    def log(self, program: Program) -> Path:
        return self.logs / f"{program.name}.log"

    def start(self, program: Program) -> None:
        """Start and wait until it answers. RuntimeError with the end of its log."""
        log = self.log(program)
        shorten_log(log)
        child = Child(program, spawn(program, log))
        self.children.append(child)
        self.write_record()
        wait_ready(program, child.process, log)
        self.say(child, f"started, process {child.process.pid}")

    def watch(self, stopped: threading.Event) -> None:
        """Until told to stop: a child that dies is started again, after 1, 2, 4, … seconds when it keeps
        dying.
        """
        while not stopped.wait(0.5):
            now = time.monotonic()
            for child in self.children:
                if child.again_at is None and child.process.poll() is not None:
                    child.deaths = 1 if now - child.started > STEADY else child.deaths + 1
                    child.again_at = now + min(SLOWEST, 2.0 ** (child.deaths - 1))
                    self.say(child, f"ended with code {child.process.returncode}; starting it again")
                elif child.again_at is not None and now >= child.again_at:
                    child.process, child.started, child.again_at = (
                        spawn(child.program, self.log(child.program)),
                        now,
                        None,
                    )
                    self.write_record()
                    self.say(child, f"started again, process {child.process.pid}")
            for log in self.logs.glob("*.log"):
                shorten_log(log)

    def say(self, child: Child, message: str) -> None:
        with (self.logs / "up.log").open("a") as log:
            log.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} {child.program.name}: {message}\n")

    def stop(self) -> None:
        """Last started, first stopped: the workers hand over while Redis and PostgreSQL still answer."""
        for child in reversed(self.children):
            stop(child.program, child.process)
            self.say(child, f"stopped with code {child.process.returncode}")
        self.children = []
        self.record.unlink(missing_ok=True)

    def write_record(self) -> None:
        """Who our children are, should this process be killed; a pid alone may be someone else's by then."""
        alive = [child.process.pid for child in self.children if child.process.poll() is None]
        rows = []
        for pid in alive:
            with suppress(psutil.NoSuchProcess):
                rows.append([pid, psutil.Process(pid).create_time()])
        temporary = self.record.with_suffix(".tmp")
        temporary.write_text(json.dumps(rows))
        temporary.replace(self.record)

    def clear_orphans(self) -> int:
        """End the children of an `up` that was killed; newest first, as `stop` would."""
        if not self.record.exists():
            return 0
        orphans = []
        for pid, created in json.loads(self.record.read_text()):
            with suppress(psutil.NoSuchProcess):
                process = psutil.Process(pid)
                if process.create_time() == created:
                    orphans.append(process)
        for process in reversed(orphans):
            with suppress(psutil.NoSuchProcess):  # it may die of its own between our look and our signal
                stop_orphan(process)
        self.record.unlink()
        return len(orphans)


def shorten_log(log: Path) -> None:
    """Once a log has LOG_BYTES, it goes on empty, and its text is what came before. Its program appends to
    the open file and need not know; lines that it writes between the copy and the cut, a moment, are lost."""
    if log.exists() and log.stat().st_size > LOG_BYTES:
        shutil.copyfile(log, log.with_suffix(".log.1"))
        os.truncate(log, 0)


def stop_orphan(process: psutil.Process, grace: float = 15.0) -> None:
    """Ask a whole family to end, then kill it."""
    family = [process, *process.children(recursive=True)]
    # SIGTERM would have PostgreSQL wait for its clients; SIGINT is its fast shutdown.
    process.send_signal(signal.SIGINT if process.name() == "postgres" else signal.SIGTERM)
    _, left = psutil.wait_procs(family, timeout=grace)
    for each in left:
        with suppress(psutil.NoSuchProcess):
            os.kill(each.pid, signal.SIGKILL)
    psutil.wait_procs(left, timeout=grace)
