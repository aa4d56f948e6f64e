"""Whose turn it is. A bell says only that something is due: the worker it wakes takes the fairest job,
whichever the bell was rung for.

Tenants take turns: first whoever has the fewest jobs running, then whoever's last start lies longest ago,
then whoever has waited longest; of one tenant, the oldest job first; and of those only what the worker has
the model for, and has not failed itself while another worker can take it. A tenant's row is locked while one
of its jobs is chosen, so that two workers never exceed its quota together, nor start what was just paused.

Plain SQL: it runs at every wake-up, and SQLAlchemy would take longer to build it than PostgreSQL to answer
it.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Self

from sqlalchemy import TextClause, text
from sqlalchemy.orm import Session

from expunge.store import attempts, workers
from expunge.store.attempts import DEAD, DUE
from expunge.store.models import Job

UNLIMITED = 2**31

RUNNING = (
    "select count(*) from jobs where tenant_id = tenants.id and status in ('running','cancelling') and"
    " lease_expires_at >= now()"
)
UNPAUSED = "not exists (select from pauses where tenant_id is null or tenant_id = tenants.id)"
MAY_RUN = "coalesce(max_running_jobs, :max_running)"
MODEL = "coalesce(spec ->> 'model', '')"  # as ix_jobs_queued_model has it
# Another worker that is ready, has the model and has not failed the job yet goes before one that has; for
# five minutes, as it may be busy for days.
NOT_ELSEWHERE = """(not :worker = any(failed_on) or available_at < now() - interval '5 minutes'
    or not exists (
    select from workers where expires_at > now() and state = 'ready'
        and not cast(workers.id as text) = any(failed_on)
    and (spec ->> 'model' is null or spec ->> 'model' = any(models))))"""
OLDEST = (
    f"select {{}} from jobs where tenant_id = tenants.id and {DUE} order by available_at, id limit 1 {{}}"
)
ABANDONED = (
    f"select {{}} from jobs where tenant_id = tenants.id and {DEAD} order by lease_expires_at limit 1 {{}}"
)
# The same for a worker's own models: one look into ix_jobs_queued_model for each.
MY_OLDEST = f"""select {{}} from unnest(cast(:models as text[])) as mine (model) cross join lateral (
    select available_at, id from jobs where tenant_id = tenants.id and {MODEL} = mine.model and {DUE}
        and {NOT_ELSEWHERE} order by available_at, id limit 1 {{}}
) as first order by available_at, id limit 1"""
MY_ABANDONED = (
    f"select {{}} from jobs where tenant_id = tenants.id and {DEAD} and {MODEL} = any(:models) and"
    f" {NOT_ELSEWHERE} order by lease_expires_at limit 1 {{}}"
)

# `waiting` looks into ix_jobs_queued once for each tenant that has queued jobs, however many it has.
RANKED = """
with recursive waiting (id) as (
    (select tenant_id from jobs where status = 'queued' order by tenant_id limit 1)
    union all
    select (select tenant_id from jobs where status = 'queued' and tenant_id > waiting.id order by tenant_id
        limit 1) from waiting where id is not null
),
ready as (select id from waiting union select tenant_id from jobs where {dead})
select tenants.id
from ready join tenants on tenants.id = ready.id
cross join lateral (
    select least(({oldest}), ({abandoned})) as since, ({running}) as running offset 0
) as turn
where since is not null and running < {may_run} and tenants.id <> all(:tried) and {unpaused}
order by running, last_started_at nulls first, since, tenants.id
limit :limit
"""
# A held row is passed over for the tenant's next one; where there is none, it is waited for, or the
# dispatcher, which holds it for a moment to note that it was announced, would cost the tenant its turn.
CHOSEN = """
select coalesce(({abandoned}), ({oldest}), ({waited_for}))
from tenants where id = :tenant and ({running}) < {may_run} and {unpaused}
"""
SKIP = "for update skip locked"


@dataclass(frozen=True)
class Statements:
    """What a worker asks, of all jobs or of those that it has the models for."""

    ranked: TextClause
    locked: TextClause
    skipped: TextClause
    chosen: TextClause

    @classmethod
    def of(cls, oldest: str, abandoned: str) -> Self:
        shared = {"running": RUNNING, "may_run": MAY_RUN, "unpaused": UNPAUSED}
        since = {
            "oldest": oldest.format("available_at", ""),
            "abandoned": abandoned.format("lease_expires_at", ""),
        }
        first = {
            "oldest": oldest.format("id", SKIP),
            "abandoned": abandoned.format("id", SKIP),
            "waited_for": oldest.format("id", "for update"),
        }
        ranked, lock = RANKED.format(dead=DEAD, **since, **shared), "for no key update of tenants"
        return cls(
            *map(
                text,
                (
                    ranked,
                    f"{ranked} {lock}",
                    f"{ranked} {lock} skip locked",
                    CHOSEN.format(**first, **shared),
                ),
            )
        )


ALL, MINE = Statements.of(OLDEST, ABANDONED), Statements.of(MY_OLDEST, MY_ABANDONED)


@dataclass(frozen=True)
class Claimant:
    """Who asks: the models that a worker has (None: all), its id, and how many jobs of one tenant may run at
    once.
    """

    max_running: int | None = None
    models: Sequence[str] | None = None
    worker: str = ""

    @property
    def asks(self) -> Statements:
        return ALL if self.models is None else MINE

    @property
    def given(self) -> dict[str, Any]:
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
    """Take the fairest job for one attempt; None when nothing may start. `max_running`: jobs of one tenant at
    once, where its row says nothing else.

    `worker`: whose row says which models it has; omitted: all jobs are looked at.
    """
    models = None if worker is None else workers.models_of(session, worker)
    if worker is not None and models is None:
        return None  # suspended
    claimant = Claimant(max_running, models, str(worker or ""))
    tried: list[uuid.UUID] = []
    while (tenant_id := fairest(session, claimant, tried)) is not None:
        # A statement of its own sees what was committed before the tenant's row was locked.
        job_id = session.scalar(claimant.asks.chosen, {"tenant": tenant_id, **claimant.given})
        job = None if job_id is None else attempts.claim(session, job_id, owner=owner, lease=lease)
        if job is not None:
            return job
        tried.append(tenant_id)  # another worker was quicker
    return None


def fairest(session: Session, claimant: Claimant, tried: Sequence[uuid.UUID]) -> uuid.UUID | None:
    """The tenant whose turn it is, its row locked.

    Those that other workers are choosing from are skipped; when that leaves none, the first is waited for.
    """
    given = {"tried": list(tried), "limit": 1, **claimant.given}
    found: uuid.UUID | None = session.scalar(claimant.asks.skipped, given)
    if found is None and not tried:  # who holds a row waits for no other
        found = session.scalar(claimant.asks.locked, given)
    return found


def ranked(
    session: Session, max_running: int | None, limit: int, models: Sequence[str] | None = None
) -> Sequence[uuid.UUID]:
    """Tenants that may start a job now, fairest first; `models`: only jobs of these. It costs what the
    tenants that wait are, not their jobs.
    """
    claimant = Claimant(max_running, models)
    return session.scalars(claimant.asks.ranked, {"tried": [], "limit": limit, **claimant.given}).all()
