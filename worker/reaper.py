"""Takes jobs away from dead workers, and ends jobs past their deadlines."""

import structlog

from expunge.store import db, workers
from expunge.store.queue_recovery import ReaperRound, reap
from expunge.store.settings import Settings
from expunge.worker import metrics

log = structlog.get_logger("worker")


def turn(settings: Settings) -> None:
    """Reap until nothing is left: jobs past their deadlines must not get in the way of claims."""
    while reap_batch(settings).full:
        pass


def reap_batch(settings: Settings) -> ReaperRound:
    with db.transaction(settings.database_url.get_secret_value()) as session:
        done = reap(session, backoff=settings.backoff_seconds)
        workers.delete_lost(session)
    metrics.expiries.inc(done.expiries)
    for job_id in done.requeued:
        log.warning("job_requeued", **done.facts[job_id])
    for job_id, status in done.ended:
        log.warning("job_reaped", **done.facts[job_id], status=status)
    return done
