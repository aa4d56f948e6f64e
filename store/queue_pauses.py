"""Pauses of the queue: jobs are accepted and none is started; running jobs finish, or are handed over.

A tenant pauses its own queue over HTTP. The queue of all tenants is paused at the server's command line only,
so that no API key, leaked or created by a tenant's own admin, can stop the work of others.
"""

import argparse
import sys
import uuid

from sqlalchemy import ColumnElement, delete, exists, func, or_, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import InstrumentedAttribute, Session

from expunge.store import audit
from expunge.store.audit import Action, Actor
from expunge.store.models import Pause, Tenant


def is_paused(
    tenant: InstrumentedAttribute[uuid.UUID], *how: ColumnElement[bool] | InstrumentedAttribute[bool]
) -> ColumnElement[bool]:
    """Condition: nothing of this tenant starts; `how`: conditions on the pause."""
    return exists().where(or_(Pause.tenant_id.is_(None), Pause.tenant_id == tenant), *how)


def hands_over(tenant: InstrumentedAttribute[uuid.UUID]) -> ColumnElement[bool]:
    """Condition: this tenant's running jobs are to stop at their next checkpoint."""
    return is_paused(tenant, Pause.hand_over)


def pause(
    session: Session,
    tenant_id: uuid.UUID | None,
    *,
    hand_over: bool = False,
    reason: str = "",
    by: Actor | None = None,
) -> Pause:
    """Pause a tenant's queue, or (None) that of all tenants.

    Pausing again changes `hand_over` and `reason`. Once this commits, nothing starts.
    """
    lock_tenants(session, tenant_id)
    values = {"hand_over": hand_over, "reason": reason}
    statement = (
        insert(Pause)
        .values(id=uuid.uuid4(), tenant_id=tenant_id, **values)
        .on_conflict_do_update(index_elements=["tenant_id"], set_=values)
    )
    row = session.scalars(statement.returning(Pause), execution_options={"populate_existing": True}).one()
    record_in_audit(
        session, tenant_id, "queue.paused", by, hand_over=hand_over, whole_service=tenant_id is None
    )
    return row


def resume(session: Session, tenant_id: uuid.UUID | None, *, by: Actor | None = None) -> bool:
    """End the pause of a tenant's queue, or (None) of all; False when there was none."""
    lock_tenants(session, tenant_id)
    gone = session.scalars(
        delete(Pause).where(Pause.tenant_id.is_not_distinct_from(tenant_id)).returning(Pause.id)
    ).all()
    if gone:
        record_in_audit(session, tenant_id, "queue.resumed", by, whole_service=tenant_id is None)
    return bool(gone)


def get_pause(session: Session, tenant_id: uuid.UUID | None) -> Pause | None:
    """The pause of a tenant's own queue, or (None) of all."""
    return session.scalar(select(Pause).where(Pause.tenant_id.is_not_distinct_from(tenant_id)))


def count_pauses(session: Session) -> tuple[bool, int]:
    """Whether the whole service is paused, and how many tenants have paused their own queue."""
    whole, own = session.execute(
        select(func.count().filter(Pause.tenant_id.is_(None)), func.count(Pause.tenant_id)).select_from(Pause)
    ).one()
    return whole > 0, own


def list_concerned(session: Session, tenant_id: uuid.UUID | None) -> list[uuid.UUID]:
    """This tenant, or (None) all."""
    query = select(Tenant.id).order_by(Tenant.id)
    return list(session.scalars(query if tenant_id is None else query.where(Tenant.id == tenant_id)))


def lock_tenants(session: Session, tenant_id: uuid.UUID | None) -> None:
    """Lock the rows of the tenants concerned, as workers do while they choose a job."""
    query = select(Tenant.id).order_by(Tenant.id).with_for_update(key_share=True)
    session.scalars(query if tenant_id is None else query.where(Tenant.id == tenant_id)).all()


def record_in_audit(
    session: Session, tenant_id: uuid.UUID | None, action: Action, by: Actor | None, **details: object
) -> None:
    """Record the act in the audit of each tenant concerned, so that all see when all queues were paused."""
    for each in list_concerned(session, tenant_id):
        audit.record(session, each, by, action, each, **details)


def main() -> None:
    """`python -m expunge.store.queue_pauses show|pause|resume`: the whole service's queue."""
    from expunge.store import db
    from expunge.store.settings import read

    parser = argparse.ArgumentParser(
        description="Pause and resume the queue of all tenants; jobs are still accepted."
    )
    parser.add_argument("action", choices=("show", "pause", "resume"))
    parser.add_argument(
        "--hand-over",
        action="store_true",
        help="running jobs stop at their next checkpoint and go on after the pause",
    )
    parser.add_argument("--reason", default="", help="for people: GET /queue shows it")
    given = parser.parse_args()
    with db.transaction(read(secret=False).database_url.get_secret_value()) as session:
        if given.action == "pause":
            pause(session, None, hand_over=given.hand_over, reason=given.reason)
        elif given.action == "resume":
            resume(session, None)
        found = get_pause(session, None)
    if found is None:
        sys.stdout.write("running\n")
    else:
        handing_over = ", handing over" if found.hand_over else ""
        sys.stdout.write(f"paused since {found.paused_at:%Y-%m-%dT%H:%M:%SZ}{handing_over}\n")


if __name__ == "__main__":
    main()
