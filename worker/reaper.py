"""Takes jobs from dead workers, and ends those past their deadlines."""

import structlog

from expunge.store import db, workers
from expunge.store.queue_recovery import ReaperRound, reap
from expunge.store.settings import Settings
from expunge.worker import metrics

log = structlog.get_logger("worker")


def turn(settings: Settings) -> None:
    """Rounds until nothing is left: what is past its deadline must not stand in the way of those who choose
    from the queue.
    """
    while once(settings).full:
        pass


def once(settings: Settings) -> ReaperRound:
    with db.transaction(settings.database_url.get_secret_value()) as session:
        done = reap(session, backoff=settings.backoff_seconds)
        workers.delete_lost(session)
    metrics.expiries.inc(done.expiries)
    for job_id in done.requeued:
        log.warning("job_requeued", **done.facts[job_id])
    for job_id, status in done.ended:
        log.warning("job_reaped", **done.facts[job_id], status=status)
    return done
