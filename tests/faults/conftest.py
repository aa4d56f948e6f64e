"""Fixtures of the fault tests, and the ledger over all of them."""

from collections.abc import Iterator
from pathlib import Path

import ledger
import pytest
from fleets import Fleet, finished
from stage import Stage

from store.models import TERMINAL
from store.settings import Settings

__all__ = ["finished"]
REPORT = Path(__file__).parents[2] / "build" / "faults.json"


@pytest.fixture
def fleet(settings: Settings, tmp_path: Path, tenant) -> Iterator[Fleet]:
    """Workers and loops on the session's servers; what became of its jobs goes into the ledger."""
    made = Fleet(settings, tmp_path, tenant.id)
    yield made
    ended: dict[str, int] = {}
    try:
        if all(made.job(job_id).status in TERMINAL for job_id in made.accepted):
            ledger.BOOK.append(ledger.read(settings, made.accepted, faults=len(made.faults), kills=made.kills, names=made.faults))
            ended = {
                name: n for name, n in ledger.BOOK[-1].wrong.items() if name != "messages_left"
            }  # a test may end before its duplicates
    finally:
        made.end()  # whatever lives on would take the next test's jobs
    assert not ended


@pytest.fixture
def stage(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Stage]:
    """A whole service on PostgreSQL and Redis of its own; parametrised with "memory": Redis without its append-only file."""
    made = Stage(tmp_path, append_only=getattr(request, "param", "file") == "file")
    yield made
    made.end()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The ledger of this session, printed and written to build/faults.json."""
    if ledger.BOOK:
        whole = ledger.total(ledger.BOOK)
        whole.write(REPORT)
        terminalreporter.section("ledger")
        terminalreporter.write_line(ledger.told(whole))
