"""The standing red team: attacks what was published again, once the attacks or their budgets have grown, and
records what came of it (docs/red-team.md). Without a policy it does nothing.
"""

import structlog

from expunge.store import db, red_team
from expunge.store.settings import Settings
from expunge.worker import metrics

log = structlog.get_logger("worker")


def turn(settings: Settings) -> None:
    """Record what has ended, then make the jobs that there is room for."""
    url = settings.database_url.get_secret_value()
    with db.transaction(url) as session:
        changed = red_team.settle(session)
    for job, before, now in changed:
        metrics.changed_verdicts.labels(now).inc()
        log.warning("verdict_changed", job_id=str(job.id), before=before, now=now)
    with db.transaction(url) as session:
        made = red_team.make_jobs(session, settings)
    for job in made:
        log.info("artifact_attacked_again", job_id=str(job.id), of=job.spec["job_id"])
