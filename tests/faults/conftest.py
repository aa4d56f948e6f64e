"""Fixtures of the fault tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from expunge.store.settings import Settings
from tests.support import ledger
from tests.support.cluster import Fleet, finished
from tests.support.whole_service import Stage

__all__ = ["finished"]


@pytest.fixture
def fleet(
    settings: Settings, tmp_path: Path, tenant, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Fleet]:  # whose changes must outlast it
    """Workers and loops on the session's servers; what became of its jobs goes into the ledger."""
    made = Fleet(settings, tmp_path, tenant.id)
    yield made
    try:
        ledger.close(made)
    finally:
        made.end()  # whatever lives on would take the next test's jobs


@pytest.fixture
def stage(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Stage]:
    """A whole service on PostgreSQL and Redis of its own; parametrised with "memory": Redis without its
    append-only file.
    """
    made = Stage(tmp_path, append_only=getattr(request, "param", "file") == "file")
    yield made
    made.end()
