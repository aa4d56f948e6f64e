"""Which queued jobs are announced: for each the dispatcher sends a message that wakes a worker.

A message names a job, but holds nothing else, and may get lost, come twice or come for nothing: PostgreSQL
alone says what is due (store/queue_claims.py).
"""

import uuid
from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import func, select, text, update
from sqlalchemy.orm import Session

from expunge.store import queue_claims, workers
from expunge.store.jobs import LITERAL
from expunge.store.models import JOB_MODEL, Job
from expunge.store.statuses import JobStatus

TASK = "expunge.run"  # the Celery task that a message is for; its one argument is a job id
QUEUE = "expunge"  # the Celery queue that messages wait in
BATCH = 100  # jobs announced at once

# A queued job of a tenant that may be announced
WANTED = f"""
        from jobs
        where tenant_id = tenants.id and status = 'queued' and available_at <= now()
            and (:any_model or {JOB_MODEL} = any(:models))"""
# The first job of each tenant, then the second of each, and so on. Two index ranges a tenant, however many
# jobs it has: ordered as ix_jobs_unannounced is (by dispatched_at too, where it is null), so that PostgreSQL
# uses no other index, whatever it knows of the rows.
CANDIDATES = text(f"""
select each.id
from unnest(cast(:tenants as uuid[])) with ordinality as tenants (id, place)
cross join lateral (
    select id, row_number() over (order by available_at, id) as turn
    from (
        -- never announced; a fresh job is left to the API for a while
        (select id, available_at {WANTED} and dispatched_at is null
            and (attempt > 0 or started_at is not null or available_at <= now() - cast(:grace as interval))
        order by dispatched_at, available_at limit :limit)
        union all
        -- announced long ago
        (select id, available_at {WANTED} and dispatched_at <= now() - cast(:again as interval)
        order by dispatched_at, available_at limit :limit)
    ) as wanted
) as each
order by turn, place
limit :limit
""")
ANNOUNCED = text(f"""
select exists (
    select from jobs
    where status = 'queued' and {JOB_MODEL} = any(:models)
        and dispatched_at > now() - cast(:within as interval)
)
""")


def next_to_announce(
    session: Session,
    *,
    grace: timedelta,
    again: timedelta,
    limit: int = BATCH,
    max_running: int | None = None,
) -> Sequence[uuid.UUID]:
    """Due jobs that nobody claimed: `grace` after they came, then every `again`; marks them as announced.

    `grace` leaves a fresh job to the message that the API sends itself. Tenants take turns. Tenants whose
    queue is paused, or that run all they may, are passed over, and so are jobs that no ready worker has the
    model for.
    """
    models = workers.ready_models(session)
    tenants = list(queue_claims.list_fairest_tenants(session, max_running, limit, models))
    parameters = {
        "tenants": tenants,
        "grace": grace,
        "again": again,
        "limit": limit,
        "any_model": models is None,
        "models": models or [],
    }
    order = list(session.scalars(CANDIDATES, parameters))
    queued = Job.status == LITERAL[JobStatus.QUEUED]
    free = set(
        session.scalars(select(Job.id).where(Job.id.in_(order), queued).with_for_update(skip_locked=True))
    )
    session.execute(
        update(Job).where(Job.id.in_(free)).values(dispatched_at=func.now()),
        execution_options={"synchronize_session": False},
    )
    return [job_id for job_id in order if job_id in free]


def recently_announced(session: Session, models: Sequence[str], within: timedelta) -> bool:
    """Whether a queued job of these models was announced lately."""
    return bool(session.scalar(ANNOUNCED, {"models": [*models, workers.ANY], "within": within}))
