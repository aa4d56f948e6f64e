"""The logs of `expunge up`: bounded while it runs, and up.log tells of every start, death and stop."""

import sys
import threading
from pathlib import Path

import pytest

from expunge.embedded import supervise
from expunge.embedded.servers import Program
from expunge.embedded.supervise import Supervisor
from tests.support.cluster import until

LIMIT = 20_000
CHATTY = (
    "import itertools, time\nfor n in itertools.count(): print('line', n, 'x' * 100, flush=True);"
    " time.sleep(0.001)"
)


@pytest.fixture
def children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(supervise, "LOG_BYTES", LIMIT)
    made, over = Supervisor(tmp_path), threading.Event()
    made.start(Program("chatty", [sys.executable, "-c", CHATTY]))
    watching = threading.Thread(target=made.watch, args=(over,))
    watching.start()
    yield made
    over.set()
    watching.join()
    made.stop()


def numbers(log: Path) -> list[int]:
    return [
        int(line.split()[1])
        for line in log.read_text().splitlines()
        if line.startswith("line") and line.endswith("x" * 100)
    ]


def test_a_log_is_cut_while_its_program_runs_and_the_text_before_is_kept_once(children):
    log, before = children.logs / "chatty.log", children.logs / "chatty.log.1"
    until(before.exists)
    first = numbers(before)[0]
    until(lambda: numbers(before)[0] > first)  # cut a second time
    until(lambda: numbers(log) and numbers(log)[0] > numbers(before)[0])
    assert children.children[0].process.poll() is None, "the program wrote on, into the same file"
    assert sorted(p.name for p in children.logs.iterdir()) == ["chatty.log", "chatty.log.1", "up.log"]
    assert "\0" not in log.read_text(), "it goes on at the beginning"


def test_up_log_tells_of_starts_deaths_and_restarts(children):
    log = children.logs / "up.log"
    assert "chatty: started, process" in log.read_text()
    children.children[0].process.kill()
    until(lambda: "chatty: started again, process" in log.read_text())
    assert "chatty: ended with code -9; starting it again" in log.read_text()
