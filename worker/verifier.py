"""Hashes stored artifacts again from time to time, so that a rotten disk is noticed before a client needs the
bytes.
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
    """Look at those that nobody has looked at for longest; what is damaged is flagged until it is whole
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
        found = whole(blobs, row)
        with db.transaction(url) as session:
            artifacts.record_check(session, row.id, whole=found)
        metrics.verified.labels("whole" if found else "corrupt").inc()
        if not found:
            log.error("artifact_corrupt", artifact_id=str(row.id), job_id=str(row.job_id), key=row.key)


def whole(blobs: Blobs, row: Artifact) -> bool:
    """Whether the bytes are there and are what was stored."""
    try:
        return blobs.hash(row.key) == (row.size, row.sha256)
    except NotFound:
        return False
