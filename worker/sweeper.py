"""Deletes what has reached its age: idempotency keys, artifacts, jobs, events, deliveries, checkpoints of
ended jobs; quarantines stored objects that no row names.
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
    """Sweep once.

    Nothing is touched in a store that is not known to be ours, and one turn quarantines no more than its
    bound allows.
    """
    age, url = timedelta(seconds=settings.sweep_after_seconds), settings.database_url.get_secret_value()
    with db.transaction(url) as session:
        idempotency.delete_expired(session)
        delete_old_checkpoints(session, age)
        webhook_deliveries.delete_old(session, timedelta(seconds=settings.webhook_log_seconds))

    try:
        blobs = deployment.open_store(settings)
    except ForeignStore as error:
        metrics.refused_sweeps.labels("foreign_store").inc()
        log.error("sweep_refused", error=str(error))
        return

    # First the rows, then the bytes that they no longer hold.
    expire_artifacts(settings)
    remove_old_rows(settings)
    deleted = blob_deletions.delete_scheduled(url, blobs) + quarantine.purge(settings, blobs)
    partial = blobs.clear_partial(age)
    quarantined = quarantine_orphans(settings, blobs)
    metrics.swept.inc(deleted + partial)
    metrics.quarantined.inc(quarantined)
    if deleted or partial or quarantined:
        log.info("objects_swept", deleted=deleted, partial=partial, set_aside=quarantined)


def quarantine_orphans(settings: Settings, blobs: Blobs) -> int:
    """Quarantine objects that no row names, unless they are too many; returns their number."""
    found = quarantine.sweep(settings, blobs)
    if found.taken:
        return found.orphans
    if found.orphans:
        metrics.refused_sweeps.labels("too_many").inc()
        remedy = (
            "is this the right database, and not an old backup? If so: python -m expunge.store.quarantine"
            " take"
        )
        log.error(
            "sweep_refused", objects=found.objects, unnamed=found.orphans, bound=found.bound, remedy=remedy
        )
    return 0


def expire_artifacts(settings: Settings) -> None:
    """Give up the bytes of artifacts that have reached their age; their rows stay, and say since when."""
    if settings.retention_days is not None:
        age, secrets = timedelta(days=settings.retention_days), not settings.retain_keys
        repeat_until_done(
            settings,
            "artifacts_expired",
            lambda session: removal.expire_outputs(session, age, secrets=secrets),
        )
    if settings.upload_days is not None:
        limit = timedelta(days=settings.upload_days)
        repeat_until_done(settings, "uploads_expired", lambda session: removal.expire_uploads(session, limit))


def remove_old_rows(settings: Settings) -> None:
    """Remove jobs and events that have reached their age."""
    if settings.job_days is not None:
        age = timedelta(days=settings.job_days)
        repeat_until_done(settings, "jobs_removed", lambda session: removal.prune_jobs(session, age))
    if settings.event_days is not None:
        limit = timedelta(days=settings.event_days)
        repeat_until_done(settings, "events_removed", lambda session: removal.prune_events(session, limit))


def repeat_until_done(settings: Settings, event: str, remove_batch: Callable[[Session], int]) -> None:
    """Remove batch after batch, each in a transaction of its own, until nothing is left; then log `event`."""
    count = 0
    while True:
        with db.transaction(settings.database_url.get_secret_value()) as session:
            removed = remove_batch(session)
        if not removed:
            break
        count += removed
    if count:
        log.info(event, count=count)
