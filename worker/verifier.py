"""Hashes stored artifacts again from time to time, so that a damaged disk is noticed before a client needs
the bytes.
"""

from datetime import timedelta

import structlog

from expunge.store import artifacts, db, deployment
from expunge.store.blobs import Blobs
from expunge.store.errors import ForeignStore, NotFound
from expunge.store.models import Artifact
from expunge.store.settings import Settings
from expunge.worker import metrics

log = structlog.get_logger("worker")
BATCH = 100  # artifacts a turn


def turn(settings: Settings) -> None:
    """Verify the artifacts that were verified longest ago; a damaged one is flagged until it is intact
    again.
    """
    url = settings.database_url.get_secret_value()
    try:
        blobs = deployment.open_store(settings)
    except ForeignStore as error:  # nothing in it is damaged: it is another store
        log.error("verification_refused", error=str(error))
        return
    with db.transaction(url) as session:
        due = artifacts.list_unverified(session, timedelta(days=settings.verify_days), BATCH)
    for row in due:
        intact = is_intact(blobs, row)
        with db.transaction(url) as session:
            artifacts.record_check(session, row.id, whole=intact)
        metrics.verified.labels("whole" if intact else "corrupt").inc()
        if not intact:
            log.error("artifact_corrupt", artifact_id=str(row.id), job_id=str(row.job_id), key=row.key)


def is_intact(blobs: Blobs, row: Artifact) -> bool:
    """Whether the stored bytes are there and unchanged."""
    try:
        return blobs.hash(row.key) == (row.size, row.sha256)
    except NotFound:
        return False
