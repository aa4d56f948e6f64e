"""Messages to webhooks, and the attempts to deliver them.

A message is written in the transaction of the event that it reports, so that none is lost or wrong. Times are
the database's now(). An attempt has a lease, and writes only while the delivery has its fence, as with jobs.
"""

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Subquery, and_, delete, func, or_, select, tuple_, update
from sqlalchemy.orm import InstrumentedAttribute, Session

from expunge.store import audit
from expunge.store.audit import Actor
from expunge.store.errors import NotFound, WrongState
from expunge.store.models import Delivery, Job, Webhook
from expunge.store.webhooks import get as get_webhook

LOGGED = 20  # attempts that a delivery's log keeps
AT_ONCE = 2  # attempts at one webhook, so that a slow one does not hold up the others
OF_TENANT = 4  # attempts of one tenant, for the same reason


@dataclass(frozen=True)
class DueDelivery:
    """One attempt that is to be made; `previous`: the secret before a rotation, while it signs too."""

    id: uuid.UUID
    fence: int
    url: str
    sealed: bytes
    previous: bytes | None
    body: str
    at: datetime


def message_id(delivery_id: uuid.UUID) -> str:
    """The `webhook-id` header, the same at each attempt, so that receivers recognise a repeat."""
    return f"msg_{delivery_id.hex}"


def payload(event: str, at: datetime, data: dict[str, Any]) -> str:
    """A thin message: what happened to which job; GET /jobs/{id} has the rest."""
    return json.dumps({"type": event, "timestamp": at.isoformat(), "data": data}, separators=(",", ":"))


def enqueue_end(session: Session, job: Job) -> None:
    """Write a job's end for every webhook that asked for it; for store/jobs.py, in that end's transaction."""
    assert job.finished_at is not None
    verdict = job.verdict or {}
    checks = [check for check in verdict.get("checks", ()) if check.get("status") != "passed"]
    causes = [check["cause"] for check in checks if check.get("cause")]
    data = {
        "job_id": str(job.id),
        "kind": job.kind,
        "policy": job.policy,
        "status": job.status,
        "verdict": verdict.get("status"),
        "passed": verdict.get("passed"),
        "causes": list(dict.fromkeys(causes)),
        "delivery": verdict.get("delivery"),
        "artifact_sha256": verdict.get("artifact_sha256"),
    }
    enqueue(session, job, f"job.{job.status}", job.finished_at, data)


def enqueue(session: Session, job: Job, event: str, at: datetime, data: dict[str, Any]) -> None:
    """Write what happened to a job for every webhook of its tenant that asked for it."""
    body = payload(event, at, data)
    wanting = select(Webhook.id).where(
        Webhook.tenant_id == job.tenant_id, Webhook.enabled, Webhook.events.contains([event])
    )
    # Locked, so that none is deleted before this commit; one that is being deleted is not seen.
    ids = session.scalars(wanting.order_by(Webhook.id).with_for_update(read=True, key_share=True)).all()
    session.add_all(Delivery(webhook_id=id_, job_id=job.id, event=event, body=body) for id_ in ids)
    session.flush()


def require_enabled(row: Webhook) -> None:
    if not row.enabled:
        raise WrongState("the webhook is disabled: enable it first, with PATCH")


def ping(session: Session, tenant_id: uuid.UUID, webhook_id: uuid.UUID, by: Actor) -> Delivery:
    """Send a test message.

    Raises: NotFound; WrongState while the webhook is disabled.
    """
    row = get_webhook(session, tenant_id, webhook_id)
    require_enabled(row)
    now = session.scalars(select(func.now())).one()
    made = Delivery(webhook_id=row.id, event="ping", body=payload("ping", now, {"webhook_id": str(row.id)}))
    session.add(made)
    audit.record(session, tenant_id, by, "webhook.pinged", row.id)
    session.refresh(made)
    return made


def list_deliveries(
    session: Session, webhook: Webhook, *, after: tuple[datetime, uuid.UUID] | None = None, limit: int = 50
) -> Sequence[Delivery]:
    """A webhook's deliveries, newest first.

    `after`: (created_at, id) of the last delivery of the page before.
    """
    query = select(Delivery).where(Delivery.webhook_id == webhook.id)
    if after is not None:
        query = query.where(tuple_(Delivery.created_at, Delivery.id) < tuple_(*after))
    return session.scalars(query.order_by(Delivery.created_at.desc(), Delivery.id.desc()).limit(limit)).all()


def redeliver(
    session: Session, tenant_id: uuid.UUID, webhook_id: uuid.UUID, delivery_id: uuid.UUID, by: Actor
) -> Delivery:
    """Send the same message again, now, with a new round of attempts.

    Raises: NotFound; WrongState while the webhook is disabled.
    """
    row = get_webhook(session, tenant_id, webhook_id)
    mine = (Delivery.id == delivery_id, Delivery.webhook_id == row.id)
    if session.scalar(select(Delivery.id).where(*mine)) is None:
        raise NotFound(f"no delivery {delivery_id}")
    require_enabled(row)
    values = {
        "status": "pending",
        "attempt": 0,
        "next_attempt_at": func.now(),
        "leased_until": None,
        "finished_at": None,
    }
    statement = update(Delivery).where(*mine).values(**values, fence=Delivery.fence + 1).returning(Delivery)
    made = session.execute(statement, execution_options={"populate_existing": True}).scalar_one()
    audit.record(session, tenant_id, by, "webhook.redelivered", row.id, delivery_id=str(delivery_id))
    return made


def count_in_flight(of: InstrumentedAttribute[uuid.UUID]) -> Subquery:
    """How many attempts are under way: rows (of, n), by webhook or tenant."""
    query = (
        select(of.label("of"), func.count().label("n"))
        .select_from(Delivery)
        .join(Webhook, Webhook.id == Delivery.webhook_id)
    )
    return (
        query.where(Delivery.status == "pending", Delivery.leased_until >= func.now()).group_by(of).subquery()
    )


def claim(session: Session, *, limit: int, lease: timedelta) -> list[DueDelivery]:
    """Take deliveries that are due, oldest first, for one attempt each.

    Never more at once than AT_ONCE to one webhook and OF_TENANT of one tenant, those under way included.
    """
    now = func.now()

    # Each due delivery's place among those of its webhook, after those in flight
    due = and_(
        Delivery.status == "pending",
        Delivery.next_attempt_at <= now,
        or_(Delivery.leased_until.is_(None), Delivery.leased_until < now),
    )
    of_hook, of_tenant = count_in_flight(Delivery.webhook_id), count_in_flight(Webhook.tenant_id)
    place = func.row_number().over(
        partition_by=Delivery.webhook_id, order_by=(Delivery.next_attempt_at, Delivery.id)
    )
    waiting = (
        select(
            Delivery.id,
            Delivery.next_attempt_at,
            Webhook.tenant_id,
            (place + func.coalesce(of_hook.c.n, 0)).label("place"),
        )
        .join(Webhook, Webhook.id == Delivery.webhook_id)
        .outerjoin(of_hook, of_hook.c.of == Delivery.webhook_id)
        .where(due, Webhook.enabled)
        .subquery()
    )

    # Each one's turn among those of its tenant, after those in flight
    turn = func.row_number().over(
        partition_by=waiting.c.tenant_id, order_by=(waiting.c.place, waiting.c.next_attempt_at)
    )
    fair = (
        select(waiting.c.id, (turn + func.coalesce(of_tenant.c.n, 0)).label("turn"))
        .outerjoin(of_tenant, of_tenant.c.of == waiting.c.tenant_id)
        .where(waiting.c.place <= AT_ONCE)
        .subquery()
    )

    # The oldest whose place and turn are within the limits; locked, unless another loop has them
    first = select(fair.c.id).where(fair.c.turn <= OF_TENANT)
    chosen = (
        select(Delivery.id).where(Delivery.id.in_(first), due).order_by(Delivery.next_attempt_at).limit(limit)
    )
    ids = session.scalars(chosen.with_for_update(skip_locked=True)).all()

    # Lease them, and read what an attempt needs
    values = {"attempt": Delivery.attempt + 1, "fence": Delivery.fence + 1, "leased_until": now + lease}
    session.execute(
        update(Delivery).where(Delivery.id.in_(ids)).values(**values),
        execution_options={"synchronize_session": False},
    )
    taken = (
        select(
            Delivery.id,
            Delivery.fence,
            Webhook.url,
            Webhook.sealed,
            Webhook.previous,
            Webhook.previous_until > now,
            Delivery.body,
            now,
        )
        .join(Webhook, Webhook.id == Delivery.webhook_id)
        .where(Delivery.id.in_(ids))
        .order_by(Delivery.next_attempt_at)
    )
    return [
        DueDelivery(id_, fence, url, sealed, previous if both else None, body, at)
        for id_, fence, url, sealed, previous, both, body, at in session.execute(taken)
    ]


def record_attempt(
    session: Session,
    due: DueDelivery,
    *,
    status: int | None,
    error: str | None,
    seconds: float,
    retries: Sequence[float],
) -> str | None:
    """Record what came of an attempt, and when the next one is due.

    `status`: the answer's HTTP status; `error` None: delivered. After 410 the webhook is disabled and the
    delivery failed. Returns the delivery's status, or None when another attempt has taken it over.
    """
    held = (Delivery.id == due.id, Delivery.fence == due.fence, Delivery.status == "pending")
    if status == 410:  # locks the webhook's row before its delivery's, in the order of a deletion
        session.execute(
            select(Webhook.id).join(Delivery).where(Delivery.id == due.id).with_for_update(of=Webhook)
        )
    row = session.scalar(select(Delivery).where(*held).with_for_update())
    if row is None:
        return None
    row.log = [
        *row.log,
        {"at": due.at.isoformat(), "status": status, "error": error, "seconds": round(seconds, 3)},
    ][-LOGGED:]
    row.leased_until = None
    if error is None:
        row.status = "delivered"
    elif status == 410 or row.attempt > len(retries):
        row.status = "failed"
    else:
        row.next_attempt_at = func.now() + timedelta(seconds=retries[row.attempt - 1])
    if row.status != "pending":
        row.finished_at = func.now()
    session.flush()
    if status == 410:
        disable(session, row.webhook_id)
    return row.status


def disable(session: Session, webhook_id: uuid.UUID) -> None:
    """Disable a webhook whose endpoint answered 410."""
    values = {"enabled": False, "disabled_reason": "gone"}
    tenant_id = session.scalar(
        update(Webhook)
        .where(Webhook.id == webhook_id, Webhook.enabled)
        .values(**values)
        .returning(Webhook.tenant_id)
    )
    if tenant_id is not None:
        audit.record(session, tenant_id, None, "webhook.disabled", webhook_id, reason="gone")


def delete_old(session: Session, age: timedelta) -> None:
    """Delete deliveries that ended longer ago than `age`."""
    old = delete(Delivery).where(Delivery.status != "pending", Delivery.finished_at < func.now() - age)
    session.execute(old, execution_options={"synchronize_session": False})
