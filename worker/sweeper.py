"""Deletes what has had its time: expired idempotency keys and artifacts, checkpoints of ended jobs, old deliveries; and sets aside bytes that no row names."""

from datetime import timedelta

import structlog

from store import artifacts, db, deletions, deliveries, deployment, idempotency, quarantine
from store.blobs import Blobs
from store.errors import ForeignStore
from store.queue import drop_old_checkpoints
from store.settings import Settings
from worker import metrics

log = structlog.get_logger("worker")


def turn(settings: Settings) -> None:
    """Nothing is touched in a store that is not known to be ours, and no more is set aside in one turn than its bound says."""
    age, url = timedelta(seconds=settings.sweep_after_seconds), settings.database_url.get_secret_value()
    with db.transaction(url) as session:
        idempotency.sweep(session)
        drop_old_checkpoints(session, age)
        deliveries.sweep(session, timedelta(seconds=settings.webhook_log_seconds))
    try:
        blobs = deployment.owned(settings)
    except ForeignStore as error:
        metrics.refused.labels("foreign_store").inc()
        log.error("sweep_refused", error=str(error))
        return
    retire(settings)
    deleted = deletions.finish(url, blobs) + quarantine.purge(settings, blobs)
    partial = blobs.clear_partial(age)
    aside = set_aside(settings, blobs)
    metrics.swept.inc(deleted + partial)
    metrics.aside.inc(aside)
    if deleted or partial or aside:
        log.info("swept", deleted=deleted, partial=partial, set_aside=aside)


def set_aside(settings: Settings, blobs: Blobs) -> int:
    """How many objects that no row names were put into quarantine."""
    found = quarantine.sweep(settings, blobs)
    if found.taken:
        return found.orphans
    if found.orphans:
        metrics.refused.labels("too_many").inc()
        remedy = "is this the right database, and not an old backup? If so: python -m store.quarantine take"
        log.error("sweep_refused", objects=found.objects, unnamed=found.orphans, bound=found.bound, remedy=remedy)
    return 0


def retire(settings: Settings) -> None:
    """Give up the bytes of artifacts that have reached their age; their rows stay, and say since when."""
    if settings.retention_days is None:
        return
    with db.transaction(settings.database_url.get_secret_value()) as session:
        old = artifacts.expire(session, timedelta(days=settings.retention_days), secrets=not settings.retain_keys)
    if old:
        log.info("artifacts_expired", artifacts=len(old))
