"""Which job a worker takes. A message says only that something is due: the worker that it wakes takes the
fairest job, whichever the message was sent for.

Tenants take turns: first the one with the fewest running jobs, then the one whose last start is longest ago,
then the one that has waited longest. Jobs that a policy made count for no tenant. Of one tenant the oldest
job goes first, and only a job that the worker has the model for, and has not failed itself while another
worker can take it. A tenant's row is locked while one of its jobs is chosen, so that two workers never exceed
its quota together, nor start what was just paused.

It is plain SQL because it runs at every wake-up: SQLAlchemy would take longer to build the statements than
PostgreSQL to answer them. `python -m expunge.store.queue_claims` prints those of a worker.
"""

import sys
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import TextClause, text
from sqlalchemy.orm import Session

from expunge.store import attempts, workers
from expunge.store.attempts import ABANDONED, DUE
from expunge.store.models import JOB_MODEL, Job

UNLIMITED = 2**31  # running jobs of a tenant
JobQuery = Callable[[str, str], str]
"""SQL for one job of the tenant at hand, by the column to select and the lock to take on it."""


# One job of a tenant


def oldest_due(column: str, lock: str) -> str:
    return f"""
        select {column} from jobs
        where tenant_id = tenants.id and {DUE}
        order by available_at, id limit 1 {lock}"""


def first_abandoned(column: str, lock: str) -> str:
    return f"""
        select {column} from jobs
        where tenant_id = tenants.id and {ABANDONED}
        order by lease_expires_at limit 1 {lock}"""


# Whether this worker should take the job: it has not failed it, or no other worker is ready that has the
# model and has not failed it. After five minutes in any case: the others may be busy for days.
MINE_TO_TRY = """(
            not :worker = any(failed_on)
            or available_at < now() - interval '5 minutes'
            or not exists (
                select from workers
                where expires_at > now() and state = 'ready' and not cast(workers.id as text) = any(failed_on)
                    and (spec ->> 'model' is null or spec ->> 'model' = any(models))
            )
        )"""


def oldest_due_of_models(column: str, lock: str) -> str:
    """Of the worker's models only: one look into ix_jobs_queued_model for each."""
    return f"""
        select {column} from unnest(cast(:models as text[])) as mine (model) cross join lateral (
            select available_at, id from jobs
            where tenant_id = tenants.id and {JOB_MODEL} = mine.model and {DUE} and {MINE_TO_TRY}
            order by available_at, id limit 1 {lock}
        ) as first
        order by available_at, id limit 1"""


def first_abandoned_of_models(column: str, lock: str) -> str:
    return f"""
        select {column} from jobs
        where tenant_id = tenants.id and {ABANDONED} and {JOB_MODEL} = any(:models) and {MINE_TO_TRY}
        order by lease_expires_at limit 1 {lock}"""


# Whether a tenant may start another job

RUNNING = """
        select count(*) from jobs
        where tenant_id = tenants.id and status in ('running','cancelling') and lease_expires_at >= now()
            and policy is null"""
MAY_RUN = "coalesce(max_running_jobs, :max_running)"
NOT_PAUSED = "not exists (select from pauses where tenant_id is null or tenant_id = tenants.id)"


def rank_tenants(due: JobQuery, abandoned: JobQuery) -> str:
    """The tenants that may start a job now, fairest first.

    `waiting` looks into ix_jobs_queued once for each tenant with queued jobs, however many jobs those are.
    """
    return f"""
with recursive waiting (id) as (
    (select tenant_id from jobs where status = 'queued' order by tenant_id limit 1)
    union all
    select (
        select tenant_id from jobs
        where status = 'queued' and tenant_id > waiting.id
        order by tenant_id limit 1
    )
    from waiting where id is not null
),
ready as (
    select id from waiting
    union
    select tenant_id from jobs where {ABANDONED}
)
select tenants.id
from ready join tenants on tenants.id = ready.id
cross join lateral (
    select
        least(({due("available_at", "")}), ({abandoned("lease_expires_at", "")})) as since,
        ({RUNNING}) as running
    offset 0
) as turn
where since is not null and running < {MAY_RUN} and tenants.id <> all(:tried) and {NOT_PAUSED}
order by running, last_started_at nulls first, since, tenants.id
limit :limit
"""


def choose_job(due: JobQuery, abandoned: JobQuery) -> str:
    """The job that a tenant starts next, its row locked; its quota and pauses are looked at once more.

    A locked row is passed over for the tenant's next one. Where there is none, the locked row is waited for:
    the dispatcher, which locks it for a moment to mark it as announced, would else cost the tenant its turn.
    """
    skip = "for update skip locked"
    return f"""
select coalesce(({abandoned("id", skip)}), ({due("id", skip)}), ({due("id", "for update")}))
from tenants
where id = :tenant and ({RUNNING}) < {MAY_RUN} and {NOT_PAUSED}
"""


@dataclass(frozen=True)
class Statements:
    """What a claim asks: of all jobs, or of those that a worker has the models for."""

    rank: TextClause
    rank_and_lock: TextClause
    rank_and_lock_free: TextClause
    """The same, passing over tenants that another worker has locked."""
    choose: TextClause


def statements(due: JobQuery, abandoned: JobQuery) -> Statements:
    ranked = rank_tenants(due, abandoned)
    return Statements(
        rank=text(ranked),
        rank_and_lock=text(f"{ranked}for no key update of tenants"),
        rank_and_lock_free=text(f"{ranked}for no key update of tenants skip locked"),
        choose=text(choose_job(due, abandoned)),
    )


ALL_JOBS = statements(oldest_due, first_abandoned)
JOBS_OF_MODELS = statements(oldest_due_of_models, first_abandoned_of_models)


@dataclass(frozen=True)
class Claimant:
    """Who asks: `models` are those that a worker has (None: all jobs), `worker` is its id."""

    max_running: int | None = None
    """Jobs of one tenant that may run at once, where the tenant has no number of its own."""
    models: Sequence[str] | None = None
    worker: str = ""

    @property
    def statements(self) -> Statements:
        return ALL_JOBS if self.models is None else JOBS_OF_MODELS

    @property
    def parameters(self) -> dict[str, Any]:
        mine = {} if self.models is None else {"models": list(self.models), "worker": self.worker}
        return {"max_running": UNLIMITED if self.max_running is None else self.max_running, **mine}


def claim_next(
    session: Session,
    *,
    owner: str,
    lease: timedelta,
    max_running: int | None = None,
    worker: uuid.UUID | None = None,
) -> Job | None:
    """Take the fairest job for one attempt; None when nothing may start.

    `max_running`: jobs of one tenant at once, where the tenant has no number of its own. `worker`: whose row
    says which models it has; omitted: all jobs are looked at.
    """
    models = None if worker is None else workers.claimable_models(session, worker)
    if worker is not None and models is None:
        return None  # suspended
    claimant = Claimant(max_running, models, str(worker or ""))
    tried: list[uuid.UUID] = []
    while (tenant_id := lock_fairest_tenant(session, claimant, tried)) is not None:
        # A statement of its own sees what was committed before the tenant's row was locked.
        job_id = session.scalar(claimant.statements.choose, {"tenant": tenant_id, **claimant.parameters})
        job = None if job_id is None else attempts.claim(session, job_id, owner=owner, lease=lease)
        if job is not None:
            return job
        tried.append(tenant_id)  # another worker was quicker
    return None


def lock_fairest_tenant(session: Session, claimant: Claimant, tried: Sequence[uuid.UUID]) -> uuid.UUID | None:
    """The tenant whose turn it is, its row locked; None when no other than those `tried` may start a job.

    Tenants that other workers are choosing from are passed over; when that leaves none, the first is waited
    for.
    """
    parameters = {"tried": list(tried), "limit": 1, **claimant.parameters}
    found: uuid.UUID | None = session.scalar(claimant.statements.rank_and_lock_free, parameters)
    if found is None and not tried:  # who holds a row never waits for another
        found = session.scalar(claimant.statements.rank_and_lock, parameters)
    return found


def list_fairest_tenants(
    session: Session, max_running: int | None, limit: int, models: Sequence[str] | None = None
) -> Sequence[uuid.UUID]:
    """The tenants that may start a job now, fairest first; `models`: only jobs of these.

    Its cost grows with the number of tenants that wait, not with that of their jobs.
    """
    claimant = Claimant(max_running, models)
    parameters = {"tried": [], "limit": limit, **claimant.parameters}
    return session.scalars(claimant.statements.rank, parameters).all()


if __name__ == "__main__":
    for title, statement in (
        ("Lock the tenant whose turn it is", JOBS_OF_MODELS.rank_and_lock_free),
        ("Choose its job", JOBS_OF_MODELS.choose),
    ):
        sys.stdout.write(f"-- {title}{statement}\n")
