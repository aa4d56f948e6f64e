"""Connections to PostgreSQL."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.engine import ExceptionContext, make_url
from sqlalchemy.orm import Session

from expunge.store import tracing

# The server ends statements, waits for locks and idle transactions that take too long, so that none blocks
# the service. A worker that freezes in the middle of a heartbeat keeps its job's row locked, and nobody can
# take the job over, until the last of these times has passed.
OPTIONS = (
    "-c timezone=UTC -c statement_timeout=30s -c lock_timeout=10s -c idle_in_transaction_session_timeout=10s"
)
READ_ONLY = "25006"  # PostgreSQL's read_only_sql_transaction


def sqlalchemy_url(url: str) -> str:
    """A postgres:// or postgresql:// URL as SQLAlchemy with psycopg 3 wants it."""
    parsed = make_url(url.replace("postgres://", "postgresql://", 1))
    return parsed.set(drivername="postgresql+psycopg").render_as_string(hide_password=False)


def psycopg_url(url: str) -> str:
    """A URL as psycopg itself wants it, for connections without SQLAlchemy (LISTEN, advisory locks)."""
    return make_url(sqlalchemy_url(url)).set(drivername="postgresql").render_as_string(hide_password=False)


@lru_cache
def engine(url: str, pool_size: int = 10) -> Engine:
    """One connection pool per process and URL; a forked child must call `discard_pools` first."""
    made = create_engine(
        sqlalchemy_url(url),
        pool_size=pool_size,
        # Connections beyond the pool would be opened and closed for every request in busy times
        max_overflow=0,
        pool_timeout=10,
        pool_pre_ping=True,
        pool_recycle=1800,
        hide_parameters=True,  # a failed statement is logged, without what a client asked to erase
        connect_args={"options": OPTIONS, "connect_timeout": 5, "application_name": "expunge"},
    )
    tracing.instrument(made)
    event.listen(made, "handle_error", mark_disconnected)
    return made


def mark_disconnected(context: ExceptionContext) -> None:
    """Reconnect when the server became read-only, as after a failover, to reach the one that is not."""
    if getattr(context.original_exception, "sqlstate", None) == READ_ONLY:
        context.is_disconnect = True


def discard_pools() -> None:
    """Discard the pools inherited by a fork, without closing the parent's connections."""
    engine.cache_clear()


@contextmanager
def transaction(url: str) -> Iterator[Session]:
    """A session in one transaction, which commits at the end and rolls back on any error."""
    with Session(engine(url), expire_on_commit=False) as session, session.begin():
        yield session


def try_advisory_lock(session: Session, name: str) -> bool:
    """Whether this connection has the lock of this name; it keeps it until the connection ends."""
    lock = text("select pg_try_advisory_lock(hashtextextended(:name, 0))")
    return bool(session.scalar(lock, {"name": f"expunge:{name}"}))


@contextmanager
def reading(url: str) -> Iterator[Session]:
    """A session for one SELECT, without BEGIN and COMMIT: a third of the round trips.

    Several statements in it may see different states of the database.
    """
    with Session(engine(url).execution_options(isolation_level="AUTOCOMMIT")) as session:
        yield session
