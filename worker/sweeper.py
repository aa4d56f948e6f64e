"""Deletes what nothing points to: expired idempotency keys, checkpoints of ended jobs, old deliveries, bytes that no row names."""

from datetime import timedelta

import structlog

from store import artifacts, db, deliveries, idempotency
from store.blobs import Blobs
from store.queue import drop_old_checkpoints
from store.settings import Settings

log = structlog.get_logger("worker")


def turn(settings: Settings) -> None:
    age, blobs = timedelta(seconds=settings.sweep_after_seconds), Blobs(settings.artifacts_url)
    url = settings.database_url.get_secret_value()
    with db.transaction(url) as session:
        idempotency.sweep(session)
        drop_old_checkpoints(session, age)
        deliveries.sweep(session, timedelta(seconds=settings.webhook_log_seconds))
    old = list(blobs.older_than(age))  # listed before the rows are read: what is stored meanwhile is too young to be here
    with db.transaction(url) as session:
        orphans = sorted(set(old) - artifacts.referenced_keys(session))
    blobs.delete(orphans)
    if orphans:
        log.info("swept", objects=len(orphans))
