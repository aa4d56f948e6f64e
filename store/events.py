"""A job's events: pages for clients, and the one writer."""

import uuid
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, and_, func, insert, select
from sqlalchemy.orm import Session

from expunge.store.errors import NotFound
from expunge.store.models import Event, Job

CHANNEL = "expunge_events"


def append(session: Session, job: Job, type_: str, data: dict[str, Any]) -> None:
    """Write the event of a job's newest version and wake the listeners at commit; only store/jobs.py calls
    this.
    """
    values = {"job_id": job.id, "seq": job.version, "type": type_, "data": data}
    session.execute(insert(Event).values(values).returning(func.pg_notify(CHANNEL, str(job.id))))


def look(
    session: Session, tenant_id: uuid.UUID, job_id: uuid.UUID, *, after: int, limit: int
) -> Sequence[Row[Any]]:
    """A job's `status` and `version` beside each of its events with seq > after, in one statement: what the
    job is, and what has been, at one moment.

    One row with seq None where there is no such event; NotFound (another tenant's job too).
    """
    query = select(Job.status, Job.version, Event.seq, Event.type, Event.data, Event.created_at)
    query = query.outerjoin(Event, and_(Event.job_id == Job.id, Event.seq > after)).where(
        Job.id == job_id, Job.tenant_id == tenant_id
    )
    rows = session.execute(query.order_by(Event.seq).limit(limit)).all()
    if not rows:
        raise NotFound(f"no job {job_id}")
    return rows


def page(
    session: Session, tenant_id: uuid.UUID, job_id: uuid.UUID, *, after: int = 0, limit: int = 100
) -> Sequence[Event]:
    """Events with seq > after, in order; empty for another tenant's job."""
    query = (
        select(Event)
        .join(Job, Job.id == Event.job_id)
        .where(Event.job_id == job_id, Job.tenant_id == tenant_id, Event.seq > after)
    )
    return session.scalars(query.order_by(Event.seq).limit(limit)).all()
