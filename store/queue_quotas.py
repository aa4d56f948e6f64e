"""What a tenant may have at once and in a day: the numbers of its own row, or the service's.

The number of running jobs is limited where jobs are claimed (store/queue_claims.py).
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

# Names of the settings, and of columns of `tenants`
QUOTAS = ("max_active_jobs", "max_running_jobs", "max_jobs_a_day", "max_bytes")
SOON = 30  # seconds to wait where nobody knows when there is room: jobs end at any time
DAY = 86_400


@dataclass(frozen=True)
class Quotas:
    """The numbers that hold for one tenant; None: no limit."""

    max_active_jobs: int
    max_running_jobs: int | None
    max_jobs_a_day: int | None
    max_bytes: int | None


def quotas_of(session: Session, tenant_id: uuid.UUID, settings: Settings, *, lock: bool = False) -> Quotas:
    """The tenant's own numbers, where it has any, else the service's.

    `lock`: nobody deletes the tenant before this transaction ends.

    Raises: WrongState where it is deleted already.
    """
    query = select(Tenant.deleted_at, *(getattr(Tenant, name) for name in QUOTAS)).where(
        Tenant.id == tenant_id
    )
    deleted, *own = session.execute(query.with_for_update(read=True, key_share=True) if lock else query).one()
    if lock and deleted is not None:
        raise WrongState("the tenant was deleted: ask the operator for a new one")
    return Quotas(
        *(getattr(settings, name) if mine is None else mine for name, mine in zip(QUOTAS, own, strict=True))
    )


def count_job(session: Session, tenant_id: uuid.UUID, settings: Settings) -> None:
    """Count a job that is about to be created.

    The row of `usage` stays locked until the transaction ends: of two requests that would both take the last
    place, the second sees the first's job.

    Raises: QuotaExceeded, which rolls the count back.
    """
    limits, today = quotas_of(session, tenant_id, settings, lock=True), func.current_date()
    more = case((Usage.day == today, Usage.jobs + 1), else_=1)
    counted = insert(Usage).values(tenant_id=tenant_id, day=today, jobs=1)
    counted = counted.on_conflict_do_update(index_elements=["tenant_id"], set_={"day": today, "jobs": more})
    jobs = session.execute(counted.returning(Usage.jobs)).scalar_one()
    if limits.max_jobs_a_day is not None and jobs > limits.max_jobs_a_day:
        wait = seconds_to_midnight(session)
        remedy = "wait for midnight UTC, when the next day begins"
        raise QuotaExceeded("max_jobs_a_day", limits.max_jobs_a_day, remedy, wait=wait, window=DAY)
    if count_active(session, tenant_id, own=True, at_most=limits.max_active_jobs) >= limits.max_active_jobs:
        remedy = "wait for a job to end, or cancel one"
        raise QuotaExceeded("max_active_jobs", limits.max_active_jobs, remedy, wait=SOON)
    check_bytes(session, tenant_id, limits)


def check_storage(session: Session, tenant_id: uuid.UUID, settings: Settings) -> None:
    """Check an upload once its row is written, under the same lock as `count_job`.

    Raises: QuotaExceeded, which rolls the row back.
    """
    counted = insert(Usage).values(tenant_id=tenant_id, day=func.current_date(), jobs=0)
    session.execute(counted.on_conflict_do_update(index_elements=["tenant_id"], set_={"jobs": Usage.jobs}))
    check_bytes(session, tenant_id, quotas_of(session, tenant_id, settings, lock=True))


def check_bytes(session: Session, tenant_id: uuid.UUID, limits: Quotas) -> None:
    """Check the size of all that a tenant stores. What a job makes is never refused: it counts for the next.

    Raises: QuotaExceeded.
    """
    if limits.max_bytes is not None and stored_bytes(session, tenant_id) > limits.max_bytes:
        remedy = "make room with DELETE /artifacts/{id} or DELETE /jobs/{id}"
        raise QuotaExceeded("max_bytes", limits.max_bytes, remedy, wait=SOON)


def seconds_to_midnight(session: Session) -> int:
    """Seconds to the next midnight UTC, rounded up."""
    return int(session.scalar(text("select ceil(extract(epoch from current_date + 1 - localtimestamp))")))


def count_jobs_today(session: Session, tenant_id: uuid.UUID) -> int:
    """Jobs created since midnight UTC."""
    return (
        session.scalar(
            select(Usage.jobs).where(Usage.tenant_id == tenant_id, Usage.day == func.current_date())
        )
        or 0
    )
