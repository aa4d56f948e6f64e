"""Webhooks: created, listed, changed, deleted; rotation of their secrets.

Their messages are in store/webhook_deliveries.py.
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

Event = Literal["job.succeeded", "job.failed", "job.cancelled", "job.expired", "artifact.verdict_changed"]
EVENTS: tuple[Event, ...] = get_args(Event)
MAX_WEBHOOKS = 20  # of one tenant: each adds a row to the transaction that ends a job


def new_secret() -> str:
    """A signing secret: whsec_ and 32 random bytes, as Standard Webhooks defines it."""
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
    """Create a webhook; returns its row and its signing secret, which is shown only now.

    Raises: WrongState when the tenant has MAX_WEBHOOKS.
    """
    # Locked, so that two at once are both counted
    session.execute(select(Tenant.id).where(Tenant.id == tenant_id).with_for_update(key_share=True))
    count = (
        session.scalar(select(func.count()).select_from(Webhook).where(Webhook.tenant_id == tenant_id)) or 0
    )
    if count >= MAX_WEBHOOKS:
        raise WrongState(f"the tenant has {count} webhooks, the most that it may have: delete one first")
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
    """What the audit says of a webhook: only the host of its URL, as the rest may hold a token."""
    host = {"host": urlsplit(values["url"]).hostname} if "url" in values else {}
    return {**host, **{name: values[name] for name in ("events", "enabled") if name in values}}


def get(session: Session, tenant_id: uuid.UUID, webhook_id: uuid.UUID, *, lock: bool = False) -> Webhook:
    """One webhook.

    Raises: NotFound, for another tenant's webhook too.
    """
    query = select(Webhook).where(Webhook.id == webhook_id, Webhook.tenant_id == tenant_id)
    row = session.scalar(query.with_for_update(key_share=True) if lock else query)
    if row is None:
        raise NotFound(f"no webhook {webhook_id}")
    return row


def list_webhooks(session: Session, tenant_id: uuid.UUID) -> Sequence[Webhook]:
    """A tenant's webhooks, newest first."""
    return session.scalars(
        select(Webhook).where(Webhook.tenant_id == tenant_id).order_by(Webhook.created_at.desc(), Webhook.id)
    ).all()


def change(
    session: Session, tenant_id: uuid.UUID, webhook_id: uuid.UUID, by: Actor, values: dict[str, Any]
) -> Webhook:
    """Set url, events, description or enabled.

    Deliveries that waited while the webhook was disabled go on once it is enabled.
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
    """Make a new secret, which is shown only now; during `overlap` messages carry a signature of each."""
    row, text = get(session, tenant_id, webhook_id, lock=True), new_secret()
    row.previous, row.previous_until = row.sealed, func.now() + overlap
    row.sealed = encryption.seal(text, secret)
    audit.record(session, tenant_id, by, "webhook.rotated", row.id)
    session.refresh(row)
    return row, text


def delete_webhook(session: Session, tenant_id: uuid.UUID, webhook_id: uuid.UUID, by: Actor) -> None:
    """Delete a webhook with its deliveries, sent or not."""
    row = get(session, tenant_id, webhook_id)
    audit.record(session, tenant_id, by, "webhook.removed", row.id, **audit_details({"url": row.url}))
    session.delete(row)
    session.flush()


def reseal(session: Session, secret: str, older: Sequence[str]) -> None:
    """Encrypt every webhook's secrets again, under the current server secret."""
    for row in session.scalars(select(Webhook).order_by(Webhook.id).with_for_update(key_share=True)):
        row.sealed = encryption.reseal(row.sealed, secret, older, "webhooks")
        row.previous = (
            None if row.previous is None else encryption.reseal(row.previous, secret, older, "webhooks")
        )
    session.flush()


def count_under_other_secret(session: Session, secret: str) -> int:
    """How many webhooks have a secret that is not encrypted under this server secret."""
    rows = session.execute(select(Webhook.sealed, Webhook.previous)).all()
    return sum(
        not all(encryption.is_sealed_under(each, secret, "webhooks") for each in row if each is not None)
        for row in rows
    )
