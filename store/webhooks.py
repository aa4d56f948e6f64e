"""Webhooks: made, listed, changed, rotated, removed.

What is sent to them is in store/webhook_deliveries.py.
"""

import base64
import secrets
import uuid
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from expunge.store import audit, encryption
from expunge.store.audit import Actor
from expunge.store.errors import NotFound, WrongState
from expunge.store.models import Tenant, Webhook

Event = Literal["job.succeeded", "job.failed", "job.cancelled", "job.expired"]
EVENTS: tuple[Event, ...] = get_args(Event)
MOST = 20  # webhooks of one tenant: each is a row more in the transaction that ends a job


def new_secret() -> str:
    """whsec_ and 32 random bytes, as Standard Webhooks has it."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()


def create(
    session: Session,
    tenant_id: uuid.UUID,
    by: Actor,
    *,
    url: str,
    events: Sequence[str],
    description: str,
    enabled: bool,
    secret: str,
) -> tuple[Webhook, str]:
    """A new webhook and its signing secret, which is shown this once.

    WrongState when the tenant has too many.
    """
    # So that two at once are counted
    session.execute(select(Tenant.id).where(Tenant.id == tenant_id).with_for_update(key_share=True))
    count = (
        session.scalar(select(func.count()).select_from(Webhook).where(Webhook.tenant_id == tenant_id)) or 0
    )
    if count >= MOST:
        raise WrongState(f"there are {count} webhooks, which is the most: delete one first")
    text = new_secret()
    row = Webhook(
        tenant_id=tenant_id,
        url=url,
        events=list(events),
        description=description,
        enabled=enabled,
        sealed=encryption.seal(text, secret),
    )
    session.add(row)
    session.flush()
    session.refresh(row)
    audit.record(
        session,
        tenant_id,
        by,
        "webhook.created",
        row.id,
        **audit_details({"url": url, "events": list(events), "enabled": enabled}),
    )
    return row, text


def audit_details(values: dict[str, Any]) -> dict[str, Any]:
    """What the audit keeps of a webhook: of its URL the host alone, for the rest may hold a token."""
    host = {"host": urlsplit(values["url"]).hostname} if "url" in values else {}
    return {**host, **{name: values[name] for name in ("events", "enabled") if name in values}}


def get(session: Session, tenant_id: uuid.UUID, webhook_id: uuid.UUID, *, lock: bool = False) -> Webhook:
    """One webhook, or NotFound (another tenant's too)."""
    query = select(Webhook).where(Webhook.id == webhook_id, Webhook.tenant_id == tenant_id)
    row = session.scalar(query.with_for_update(key_share=True) if lock else query)
    if row is None:
        raise NotFound(f"no webhook {webhook_id}")
    return row


def list_webhooks(session: Session, tenant_id: uuid.UUID) -> Sequence[Webhook]:
    """All of a tenant's, newest first."""
    return session.scalars(
        select(Webhook).where(Webhook.tenant_id == tenant_id).order_by(Webhook.created_at.desc(), Webhook.id)
    ).all()


def change(
    session: Session, tenant_id: uuid.UUID, webhook_id: uuid.UUID, by: Actor, values: dict[str, Any]
) -> Webhook:
    """Set url, events, description or enabled.

    Deliveries that waited while it was disabled go on when it is enabled.
    """
    row = get(session, tenant_id, webhook_id, lock=True)
    changed = {name: value for name, value in values.items() if getattr(row, name) != value}
    for name, value in changed.items():
        setattr(row, name, value)
    if "enabled" in changed:
        row.disabled_reason = None
    if changed:
        audit.record(session, tenant_id, by, "webhook.changed", row.id, **audit_details(changed))
    return row


def rotate(
    session: Session,
    tenant_id: uuid.UUID,
    webhook_id: uuid.UUID,
    by: Actor,
    *,
    secret: str,
    overlap: timedelta,
) -> tuple[Webhook, str]:
    """A new secret, shown this once; for the time of `overlap` messages carry a signature of each."""
    row, text = get(session, tenant_id, webhook_id, lock=True), new_secret()
    row.previous, row.sealed, row.previous_until = (
        row.sealed,
        encryption.seal(text, secret),
        func.now() + overlap,
    )
    audit.record(session, tenant_id, by, "webhook.rotated", row.id)
    session.refresh(row)
    return row, text


def remove(session: Session, tenant_id: uuid.UUID, webhook_id: uuid.UUID, by: Actor) -> None:
    """With its deliveries, sent or not."""
    row = get(session, tenant_id, webhook_id)
    audit.record(session, tenant_id, by, "webhook.removed", row.id, **audit_details({"url": row.url}))
    session.delete(row)
    session.flush()


def reseal(session: Session, secret: str, older: Sequence[str]) -> None:
    """Bring every webhook's secrets under the current secret of the server."""
    for row in session.scalars(select(Webhook).order_by(Webhook.id).with_for_update(key_share=True)):
        row.sealed = encryption.reseal(row.sealed, secret, older, "webhooks")
        row.previous = (
            None if row.previous is None else encryption.reseal(row.previous, secret, older, "webhooks")
        )
    session.flush()


def count_under_other_secret(session: Session, secret: str) -> int:
    """How many webhooks have a secret that does not lie under this one of the server."""
    rows = session.execute(select(Webhook.sealed, Webhook.previous)).all()
    return sum(
        not all(encryption.is_sealed_under(each, secret, "webhooks") for each in row if each is not None)
        for row in rows
    )
