"""A job's events: read by clients in pages, written by store/jobs.py alone."""

import uuid
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, and_, func, insert, select
from sqlalchemy.orm import Session

from expunge.store.errors import NotFound
from expunge.store.models import Event, Job

CHANNEL = "expunge_events"


def append(session: Session, job: Job, type_: str, data: dict[str, Any]) -> None:
    """Write the event of a job's newest version and notify listeners at commit; for store/jobs.py only."""
    values = {"job_id": job.id, "seq": job.version, "type": type_, "data": data}
    session.execute(insert(Event).values(values).returning(func.pg_notify(CHANNEL, str(job.id))))


def list_events(
    session: Session, tenant_id: uuid.UUID, job_id: uuid.UUID, *, after: int, limit: int
) -> Sequence[Row[Any]]:
    """A job's events with seq > after, each beside the job's `status` and `version`: all of one moment.

    One row with seq None where there is no such event.

    Raises: NotFound, for another tenant's job too.
    """
    query = select(Job.status, Job.version, Event.seq, Event.type, Event.data, Event.created_at)
    query = query.outerjoin(Event, and_(Event.job_id == Job.id, Event.seq > after)).where(
        Job.id == job_id, Job.tenant_id == tenant_id
    )
    rows = session.execute(query.order_by(Event.seq).limit(limit)).all()
    if not rows:
        raise NotFound(f"no job {job_id}")
    return rows
