"""Connections to PostgreSQL."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.engine import ExceptionContext, make_url
from sqlalchemy.orm import Session

from expunge.store import tracing

# A stuck statement, lock or transaction must not hold up a service: the server itself ends it. A worker that
# is frozen in the middle of a heartbeat holds its job's row, and nobody can take the job over, until the last
# of these passes.
OPTIONS = (
    "-c timezone=UTC -c statement_timeout=30s -c lock_timeout=10s -c idle_in_transaction_session_timeout=10s"
)
READ_ONLY = "25006"  # PostgreSQL's read_only_sql_transaction


def sqlalchemy_url(url: str) -> str:
    """postgres:// and postgresql:// URLs as SQLAlchemy and psycopg 3 want them."""
    parsed = make_url(url.replace("postgres://", "postgresql://", 1))
    return parsed.set(drivername="postgresql+psycopg").render_as_string(hide_password=False)


def psycopg_url(url: str) -> str:
    """The same for a bare psycopg connection (LISTEN, advisory locks)."""
    return make_url(sqlalchemy_url(url)).set(drivername="postgresql").render_as_string(hide_password=False)


@lru_cache
def engine(url: str, pool_size: int = 10) -> Engine:
    """One pool per process and URL; a forked child must call `forget` first."""
    made = create_engine(
        sqlalchemy_url(url),
        pool_size=pool_size,
        # A connection beyond the pool would be made and closed for every request of a busy time
        max_overflow=0,
        pool_timeout=10,
        pool_pre_ping=True,
        pool_recycle=1800,
        hide_parameters=True,  # a failed statement is logged; what a client asked to erase is not
        connect_args={"options": OPTIONS, "connect_timeout": 5, "application_name": "expunge"},
    )
    tracing.instrument(made)
    event.listen(made, "handle_error", mark_disconnected)
    return made


def mark_disconnected(context: ExceptionContext) -> None:
    """A server that takes no writes any more, as after a failover, is as good as gone: a new connection may
    lead to the one that does.
    """
    if getattr(context.original_exception, "sqlstate", None) == READ_ONLY:
        context.is_disconnect = True


def discard_pools() -> None:
    """Drop the pools inherited over a fork, without closing the parent's connections."""
    engine.cache_clear()


@contextmanager
def transaction(url: str) -> Iterator[Session]:
    """A session in one transaction: commits at the end, rolls back on any error."""
    with Session(engine(url), expire_on_commit=False) as session, session.begin():
        yield session


def try_advisory_lock(session: Session, name: str) -> bool:
    """Whether this connection has the lock of this name; it keeps it until the connection ends."""
    lock = text("select pg_try_advisory_lock(hashtextextended(:name, 0))")
    return bool(session.scalar(lock, {"name": f"expunge:{name}"}))


@contextmanager
def reading(url: str) -> Iterator[Session]:
    """A session for one SELECT: no BEGIN, no COMMIT, so it takes a third of the round trips.

    Statements in it do not see one state.
    """
    with Session(engine(url).execution_options(isolation_level="AUTOCOMMIT")) as session:
        yield session
