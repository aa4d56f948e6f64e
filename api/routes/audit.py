"""The audit trail: who did what to what."""

import uuid
from typing import Annotated

from fastapi import APIRouter, Query

from expunge.api import pagination
from expunge.api.deps import JSON, Admin, ServicesDep, accepts
from expunge.api.problems import responses
from expunge.api.schemas import ApiKeyName, AuditEntry, AuditPage
from expunge.core.specs import Id
from expunge.store import audit
from expunge.store.audit import Action as AuditAction
from expunge.store.models import Audit

router = APIRouter(tags=["keys"], dependencies=[accepts(JSON)])


def view(row: Audit, name: str | None) -> AuditEntry:
    return AuditEntry.model_validate(
        {
            "id": row.id,
            "at": row.created_at,
            "api_key": None if row.api_key_id is None else ApiKeyName(id=row.api_key_id, name=name or ""),
            "address": row.address,
            "request_id": row.request_id,
            "action": row.action,
            "target": {"type": row.target_type, "id": row.target_id},
            "details": row.details,
        }
    )


@router.get("/audit", responses=responses("invalid_request"))
def list_audit(
    services: ServicesDep,
    caller: Admin,
    action: Annotated[AuditAction | None, Query(description="Only acts of this sort.")] = None,
    target: Annotated[
        Id | None, Query(description="Only acts on the job, artifact, key or webhook of this id.")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=pagination.MAX_PAGE, description="Acts on a page.")] = 50,
    cursor: pagination.Cursor = None,
) -> AuditPage:
    """List who did what to what, newest first; takes the scope `admin`.

    Rows are written in the transaction of the act, or before the first byte of a download leaves, and the
    database refuses to change them.
    """
    after = pagination.decode(cursor)
    with services.transaction() as session:
        rows = audit.list_entries(
            session,
            caller.tenant_id,
            action=action,
            target_id=None if target is None else uuid.UUID(target),
            after=after,
            limit=limit + 1,
        )
        page, next_cursor = pagination.cut(rows, limit, lambda pair: pair[0])
        items = [view(row, name) for row, name in page]
    return AuditPage(items=items, next_cursor=next_cursor)
