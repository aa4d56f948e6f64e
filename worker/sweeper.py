"""Deletes what has had its time: idempotency keys, artifacts, jobs, events, deliveries, checkpoints of ended
jobs; sets aside bytes that no row names.
"""

from collections.abc import Callable
from datetime import timedelta

import structlog
from sqlalchemy.orm import Session

from expunge.store import blob_deletions, db, deployment, idempotency, quarantine, removal, webhook_deliveries
from expunge.store.attempts import delete_old_checkpoints
from expunge.store.blobs import Blobs
from expunge.store.errors import ForeignStore
from expunge.store.settings import Settings
from expunge.worker import metrics

log = structlog.get_logger("worker")


def turn(settings: Settings) -> None:
    """Nothing is touched in a store that is not known to be ours, and no more is set aside in one turn than
    its bound says.
    """
    age, url = timedelta(seconds=settings.sweep_after_seconds), settings.database_url.get_secret_value()
    with db.transaction(url) as session:
        idempotency.delete_expired(session)
        delete_old_checkpoints(session, age)
        webhook_deliveries.sweep(session, timedelta(seconds=settings.webhook_log_seconds))
    try:
        blobs = deployment.open_store(settings)
    except ForeignStore as error:
        metrics.refused.labels("foreign_store").inc()
        log.error("sweep_refused", error=str(error))
        return
    retire(settings)
    forget(settings)
    deleted = blob_deletions.delete_scheduled(url, blobs) + quarantine.purge(settings, blobs)
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
        remedy = (
            "is this the right database, and not an old backup? If so: python -m expunge.store.quarantine"
            " take"
        )
        log.error(
            "sweep_refused", objects=found.objects, unnamed=found.orphans, bound=found.bound, remedy=remedy
        )
    return 0


def retire(settings: Settings) -> None:
    """Give up the bytes of artifacts that have reached their age; their rows stay, and say since when."""
    if settings.retention_days is not None:
        age, secrets = timedelta(days=settings.retention_days), not settings.retain_keys
        each(
            settings,
            "artifacts_expired",
            lambda session: removal.expire_outputs(session, age, secrets=secrets),
        )
    if settings.upload_days is not None:
        limit = timedelta(days=settings.upload_days)
        each(settings, "uploads_expired", lambda session: removal.expire_uploads(session, limit))


def forget(settings: Settings) -> None:
    """Remove jobs and events that have reached their age."""
    if settings.job_days is not None:
        age = timedelta(days=settings.job_days)
        each(settings, "jobs_removed", lambda session: removal.prune_jobs(session, age))
    if settings.event_days is not None:
        limit = timedelta(days=settings.event_days)
        each(settings, "events_removed", lambda session: removal.prune_events(session, limit))


def each(settings: Settings, event: str, some: Callable[[Session], int]) -> None:
    """Batch after batch, each in a transaction of its own, until nothing is left."""
    done = 0
    while True:
        with db.transaction(settings.database_url.get_secret_value()) as session:
            n = some(session)
        if not n:
            break
        done += n
    if done:
        log.info(event, count=done)
