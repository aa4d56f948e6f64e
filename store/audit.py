"""The audit trail: who did what to what, when and from where.

Rows are added in the transaction of the act; PostgreSQL refuses to change them.
"""

import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal, Protocol

from sqlalchemy import select, tuple_
from sqlalchemy.orm import Session

from expunge.store.models import ApiKey, Audit

Action = Literal[
    "job.created",
    "job.cancelled",
    "job.retried",
    "job.deleted",
    "artifact.uploaded",
    "artifact.deleted",
    "artifact.downloaded",
    "artifact.linked",
    "artifact.verdict_changed",
    "recovery_key.read",
    "recovery_key.revoked",
    "key.created",
    "key.rotated",
    "key.revoked",
    "webhook.created",
    "webhook.changed",
    "webhook.rotated",
    "webhook.removed",
    "webhook.disabled",
    "webhook.pinged",
    "webhook.redelivered",
    "queue.paused",
    "queue.resumed",
    "tenant.changed",
    "tenant.deleted",
]


class Actor(Protocol):
    """Who acts: an API key, and the request it came with."""

    @property
    def key_id(self) -> uuid.UUID: ...
    @property
    def address(self) -> str | None: ...
    @property
    def request_id(self) -> str: ...


def record(
    session: Session,
    tenant_id: uuid.UUID,
    by: Actor | None,
    action: Action,
    target_id: uuid.UUID,
    **details: Any,
) -> None:
    """Record an act. `by` None: the operator at the server, or the service itself.

    `details`: never a concept's text, a label or a secret.
    """
    who = {"api_key_id": by.key_id, "address": by.address, "request_id": by.request_id} if by else {}
    target_type = action.partition(".")[0]
    session.add(
        Audit(
            tenant_id=tenant_id,
            action=action,
            target_type=target_type,
            target_id=target_id,
            details=details,
            **who,
        )
    )
    session.flush()


def list_entries(
    session: Session,
    tenant_id: uuid.UUID,
    *,
    action: str | None = None,
    target_id: uuid.UUID | None = None,
    after: tuple[datetime, uuid.UUID] | None = None,
    limit: int = 50,
) -> Sequence[tuple[Audit, str | None]]:
    """A tenant's acts, newest first, each with the name of the API key.

    `after`: (created_at, id) of the last act of the page before.
    """
    query = (
        select(Audit, ApiKey.name)
        .outerjoin(ApiKey, ApiKey.id == Audit.api_key_id)
        .where(Audit.tenant_id == tenant_id)
    )
    if action is not None:
        query = query.where(Audit.action == action)
    if target_id is not None:
        query = query.where(Audit.target_id == target_id)
    if after is not None:
        query = query.where(tuple_(Audit.created_at, Audit.id) < tuple_(*after))
    rows = session.execute(query.order_by(Audit.created_at.desc(), Audit.id.desc()).limit(limit))
    return [(row, name) for row, name in rows]
