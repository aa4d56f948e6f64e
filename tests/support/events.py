"""A job's events, read as the API reads them."""

import uuid
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row
from sqlalchemy.orm import Session

from expunge.store import events


def events_of(
    session: Session, tenant_id: uuid.UUID, job_id: uuid.UUID, *, after: int = 0, limit: int = 10_000
) -> Sequence[Row[Any]]:
    """Those with seq > after, in order."""
    rows = events.list_events(session, tenant_id, job_id, after=after, limit=limit)
    return [row for row in rows if row.seq is not None]
