"""Whose turn it is. A bell says only that something is due: the worker it wakes takes the fairest job, whichever the bell was rung for.

Tenants take turns: first whoever has the fewest jobs running, then whoever's last start lies longest ago, then whoever has waited longest; of one tenant, the
oldest job first. A tenant's row is locked while one of its jobs is chosen, so that two workers never exceed its quota together, nor start what was just paused.

Plain SQL: it runs at every wake-up, and SQLAlchemy would take longer to build it than PostgreSQL to answer it.
"""

import uuid
from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import text
from sqlalchemy.orm import Session

from store import attempts
from store.attempts import DEAD, DUE
from store.models import Job

UNLIMITED = 2**31

RUNNING = "select count(*) from jobs where tenant_id = tenants.id and status in ('running','cancelling') and lease_expires_at >= now()"
OLDEST = f"select {{}} from jobs where tenant_id = tenants.id and {DUE} order by available_at, id limit 1"
ABANDONED = f"select {{}} from jobs where tenant_id = tenants.id and {DEAD} order by lease_expires_at limit 1"
UNPAUSED = "not exists (select from pauses where tenant_id is null or tenant_id = tenants.id)"
MAY_RUN = "coalesce(max_running_jobs, :max_running)"

# `waiting` looks into ix_jobs_queued once for each tenant that has queued jobs, however many it has.
RANKED = f"""
with recursive waiting (id) as (
    (select tenant_id from jobs where status = 'queued' order by tenant_id limit 1)
    union all
    select (select tenant_id from jobs where status = 'queued' and tenant_id > waiting.id order by tenant_id limit 1) from waiting where id is not null
),
ready as (select id from waiting union select tenant_id from jobs where {DEAD})
select tenants.id
from ready join tenants on tenants.id = ready.id
cross join lateral (
    select least(({OLDEST.format("available_at")}), ({ABANDONED.format("lease_expires_at")})) as since, ({RUNNING}) as running offset 0
) as turn
where since is not null and running < {MAY_RUN} and tenants.id <> all(:tried) and {UNPAUSED}
order by running, last_started_at nulls first, since, tenants.id
limit :limit
"""
LOCKED, SKIPPED = text(f"{RANKED} for no key update of tenants"), text(f"{RANKED} for no key update of tenants skip locked")
# A held row is passed over for the tenant's next one; where there is none, it is waited for, or the dispatcher, which holds it for a moment to note that it
# was announced, would cost the tenant its turn.
CHOSEN = text(f"""
select coalesce(
    ({ABANDONED.format("id")} for update skip locked), ({OLDEST.format("id")} for update skip locked), ({OLDEST.format("id")} for update)
)
from tenants where id = :tenant and ({RUNNING}) < {MAY_RUN} and {UNPAUSED}
""")


def claim_next(session: Session, *, owner: str, lease: timedelta, max_running: int | None = None) -> Job | None:
    """Take the fairest job for one attempt; None when nothing may start. `max_running`: jobs of one tenant at once, where its row says nothing else."""
    tried: list[uuid.UUID] = []
    while (tenant_id := fairest(session, max_running, tried)) is not None:
        # A statement of its own sees what was committed before the tenant's row was locked.
        job_id = session.scalar(CHOSEN, {"tenant": tenant_id, "max_running": number(max_running)})
        job = None if job_id is None else attempts.claim(session, job_id, owner=owner, lease=lease)
        if job is not None:
            return job
        tried.append(tenant_id)  # another worker was quicker
    return None


def fairest(session: Session, max_running: int | None, tried: Sequence[uuid.UUID]) -> uuid.UUID | None:
    """The tenant whose turn it is, its row locked. Those that other workers are choosing from are skipped; when that leaves none, the first is waited for."""
    given = {"max_running": number(max_running), "tried": list(tried), "limit": 1}
    found: uuid.UUID | None = session.scalar(SKIPPED, given)
    if found is None and not tried:  # who holds a row waits for no other
        found = session.scalar(LOCKED, given)
    return found


def ranked(session: Session, max_running: int | None, limit: int) -> Sequence[uuid.UUID]:
    """Tenants that may start a job now, fairest first. It costs what the tenants that wait are, not their jobs."""
    return session.scalars(text(RANKED), {"max_running": number(max_running), "tried": [], "limit": limit}).all()


def number(max_running: int | None) -> int:
    return UNLIMITED if max_running is None else max_running
