"""Deletes what has had its time: expired idempotency keys and artifacts, checkpoints of ended jobs, old deliveries, bytes that no row names."""

from datetime import timedelta

import structlog

from store import artifacts, db, deliveries, idempotency
from store.blobs import Blobs
from store.queue import drop_old_checkpoints
from store.settings import Settings
from worker import metrics

log = structlog.get_logger("worker")


def turn(settings: Settings) -> None:
    age, blobs = timedelta(seconds=settings.sweep_after_seconds), Blobs(settings.artifacts_url)
    url = settings.database_url.get_secret_value()
    with db.transaction(url) as session:
        idempotency.sweep(session)
        drop_old_checkpoints(session, age)
        deliveries.sweep(session, timedelta(seconds=settings.webhook_log_seconds))
    retire(settings, blobs)
    old = list(blobs.older_than(age))  # listed before the rows are read: what is stored meanwhile is too young to be here
    with db.transaction(url) as session:
        orphans = sorted(set(old) - artifacts.referenced_keys(session))
    blobs.delete(orphans)
    partial = blobs.clear_partial(age)
    metrics.swept.inc(len(orphans) + partial)
    if orphans or partial:
        log.info("swept", objects=len(orphans), partial=partial)


def retire(settings: Settings, blobs: Blobs) -> None:
    """Delete the bytes of artifacts that have reached their age; their rows stay, and say since when."""
    if settings.retention_days is None:
        return
    with db.transaction(settings.database_url.get_secret_value()) as session:
        old = artifacts.expire(session, timedelta(days=settings.retention_days), secrets=not settings.retain_keys)
    blobs.delete(old)  # what a kill leaves here is an orphan by now
    if old:
        log.info("artifacts_expired", artifacts=len(old))
