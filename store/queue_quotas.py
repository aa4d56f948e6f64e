"""What a tenant may have at once and in a day: its own row's numbers, or the service's.

Running jobs are bounded where they are claimed (store/queue_claims.py).
"""

import uuid
from dataclasses import dataclass

from sqlalchemy import case, func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from expunge.store.artifacts import stored_bytes
from expunge.store.errors import QuotaExceeded, WrongState
from expunge.store.jobs import count_active
from expunge.store.models import Tenant, Usage
from expunge.store.settings import Settings

# In the settings, and in the tenants' rows
QUOTAS = ("max_active_jobs", "max_running_jobs", "max_jobs_a_day", "max_bytes")
SOON = 30  # seconds: jobs end at any time
DAY = 86_400


@dataclass(frozen=True)
class Quotas:
    """None: no limit."""

    max_active_jobs: int
    max_running_jobs: int | None
    max_jobs_a_day: int | None
    max_bytes: int | None


def quotas_of(session: Session, tenant_id: uuid.UUID, settings: Settings, *, keep: bool = False) -> Quotas:
    """The tenant's own numbers, where it has any, else the service's.

    `keep`: it is not deleted before this transaction's end; WrongState where it is.
    """
    query = select(Tenant.deleted_at, *(getattr(Tenant, name) for name in QUOTAS)).where(
        Tenant.id == tenant_id
    )
    deleted, *own = session.execute(query.with_for_update(read=True, key_share=True) if keep else query).one()
    if keep and deleted is not None:
        raise WrongState("the tenant was deleted: ask the operator")
    return Quotas(
        *(getattr(settings, name) if mine is None else mine for name, mine in zip(QUOTAS, own, strict=True))
    )


def count_job(session: Session, tenant_id: uuid.UUID, settings: Settings) -> None:
    """Count a job that is about to be made. QuotaExceeded, which rolls the count back.

    The row of `usage` stays locked to the end of the transaction: of two requests that would both be the
    last, the second sees the first's job.
    """
    limits, today = quotas_of(session, tenant_id, settings, keep=True), func.current_date()
    more = case((Usage.day == today, Usage.jobs + 1), else_=1)
    counted = insert(Usage).values(tenant_id=tenant_id, day=today, jobs=1)
    counted = counted.on_conflict_do_update(index_elements=["tenant_id"], set_={"day": today, "jobs": more})
    jobs = session.execute(counted.returning(Usage.jobs)).scalar_one()
    if limits.max_jobs_a_day is not None and jobs > limits.max_jobs_a_day:
        remedy = "were made since midnight UTC: wait for the next"
        raise QuotaExceeded(
            "max_jobs_a_day", limits.max_jobs_a_day, remedy, wait=seconds_to_midnight(session), window=DAY
        )
    if count_active(session, tenant_id, at_most=limits.max_active_jobs) >= limits.max_active_jobs:
        raise QuotaExceeded(
            "max_active_jobs", limits.max_active_jobs, "wait or run: let one end, or cancel one", wait=SOON
        )
    check_bytes(session, tenant_id, limits)


def check_storage(session: Session, tenant_id: uuid.UUID, settings: Settings) -> None:
    """Look once an upload's row is written, whether it fits: QuotaExceeded, which rolls the row back. The
    lock is that of `spend`.
    """
    counted = insert(Usage).values(tenant_id=tenant_id, day=func.current_date(), jobs=0)
    session.execute(counted.on_conflict_do_update(index_elements=["tenant_id"], set_={"jobs": Usage.jobs}))
    check_bytes(session, tenant_id, quotas_of(session, tenant_id, settings, keep=True))


def check_bytes(session: Session, tenant_id: uuid.UUID, limits: Quotas) -> None:
    """QuotaExceeded when the tenant's artifacts take more than they may.

    What a job makes is never refused: it counts against the next.
    """
    if limits.max_bytes is not None and stored_bytes(session, tenant_id) > limits.max_bytes:
        raise QuotaExceeded(
            "max_bytes",
            limits.max_bytes,
            "are stored: DELETE /artifacts/{id} or /jobs/{id} makes room",
            wait=SOON,
        )


def seconds_to_midnight(session: Session) -> int:
    """Seconds to the next midnight UTC, rounded up."""
    return int(session.scalar(text("select ceil(extract(epoch from current_date + 1 - localtimestamp))")))


def count_jobs_today(session: Session, tenant_id: uuid.UUID) -> int:
    """Jobs made since midnight UTC."""
    return (
        session.scalar(
            select(Usage.jobs).where(Usage.tenant_id == tenant_id, Usage.day == func.current_date())
        )
        or 0
    )
