"""Leader election: a loop runs in one process at a time, the one that holds its advisory lock."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress

import structlog
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from expunge.store import db
from expunge.store.db import try_advisory_lock
from expunge.store.settings import Settings

log = structlog.get_logger("worker")


def lead(
    name: str, settings: Settings, every: float, turn: Callable[[Settings], None], stop: threading.Event
) -> None:
    """Call `turn` every `every` seconds while this process leads the loop `name`; stand by otherwise.

    An error ends one turn, never the loop.
    """
    url = settings.database_url.get_secret_value()
    while not stop.is_set():
        try:
            with Session(db.engine(url)) as session:
                lead_while_locked(session, name, settings, every, turn, stop)
        except SQLAlchemyError as error:
            log.warning("loop_interrupted", loop=name, error=type(error).__name__)
        stop.wait(every)


def lead_while_locked(
    session: Session,
    name: str,
    settings: Settings,
    every: float,
    turn: Callable[[Settings], None],
    stop: threading.Event,
) -> None:
    """Take turns for as long as this session's connection holds the lock."""
    if not try_advisory_lock(session, name):
        return
    session.commit()
    connection = session.connection()
    try:
        log.info("loop_leading", loop=name)
        while not stop.is_set():
            session.execute(text("select 1"))  # raises when the connection, and the lock with it, is gone
            session.commit()
            begun = time.monotonic()
            try:
                turn(settings)
            except Exception:
                log.exception("loop_turn_failed", loop=name)
            stop.wait(max(0.0, every - (time.monotonic() - begun)))
    finally:
        with suppress(SQLAlchemyError):
            connection.invalidate()  # closing the connection is what gives the lock back
