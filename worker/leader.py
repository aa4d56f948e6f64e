"""A loop that only one process of all runs at a time: the holder of an advisory lock."""

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
    """Take a turn every so many seconds while leading; stand by otherwise.

    An error costs one turn, never the loop.
    """
    url = settings.database_url.get_secret_value()
    while not stop.is_set():
        try:
            with Session(db.engine(url)) as session:
                hold(session, name, settings, every, turn, stop)
        except SQLAlchemyError as error:
            log.warning("loop_interrupted", loop=name, error=type(error).__name__)
        stop.wait(every)


def hold(
    session: Session,
    name: str,
    settings: Settings,
    every: float,
    turn: Callable[[Settings], None],
    stop: threading.Event,
) -> None:
    """Turns for as long as this session's connection holds the lock."""
    if not try_advisory_lock(session, name):
        return
    session.commit()
    connection = session.connection()
    try:
        log.info("loop_leads", loop=name)
        while not stop.is_set():
            session.execute(text("select 1"))  # raises when the connection, and the lock with it, is gone
            session.commit()
            begun = time.monotonic()
            try:
                turn(settings)
            except Exception:
                log.exception("turn_failed", loop=name)
            stop.wait(max(0.0, every - (time.monotonic() - begun)))
    finally:
        with suppress(SQLAlchemyError):
            connection.invalidate()  # closing the connection is what gives the lock back
