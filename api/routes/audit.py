"""The audit trail: who did what, to what, and when."""

import uuid
from typing import Annotated

from fastapi import APIRouter, Query

from expunge.api import pagination
from expunge.api.deps import JSON, Admin, ServicesDep, accepts
from expunge.api.responses import problem_responses
from expunge.api.schemas.base import ApiKeyName
from expunge.api.schemas.keys import AuditEntry, AuditPage
from expunge.core.specs import Id
from expunge.store import audit
from expunge.store.audit import Action as AuditAction
from expunge.store.models import Audit

router = APIRouter(tags=["keys"], dependencies=[accepts(JSON)])


def serialize_entry(row: Audit, key_name: str | None) -> AuditEntry:
    api_key = None if row.api_key_id is None else ApiKeyName(id=row.api_key_id, name=key_name or "")
    return AuditEntry.model_validate(
        {
            "id": row.id,
            "at": row.created_at,
            "api_key": api_key,
            "address": row.address,
            "request_id": row.request_id,
            "action": row.action,
            "target": {"type": row.target_type, "id": row.target_id},
            "details": row.details,
        }
    )


@router.get("/audit", responses=problem_responses("invalid_request"))
def list_audit(
    services: ServicesDep,
    caller: Admin,
    action: Annotated[AuditAction | None, Query(description="Only actions of this kind.")] = None,
    target: Annotated[
        Id | None, Query(description="Only actions on the job, artifact, key or webhook with this id.")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=pagination.MAX_PAGE, description="Actions per page.")] = 50,
    cursor: pagination.Cursor = None,
) -> AuditPage:
    """List who did what to what, newest first.

    Takes the scope `admin`. Entries are written in the transaction of the action itself, or before the first
    byte of a download is sent, and the database refuses to change them.
    """
    after = pagination.decode_cursor(cursor)
    with services.transaction() as session:
        rows = audit.list_entries(
            session,
            caller.tenant_id,
            action=action,
            target_id=None if target is None else uuid.UUID(target),
            after=after,
            limit=limit + 1,
        )
        page, next_cursor = pagination.split_page(rows, limit, lambda pair: pair[0])
        items = [serialize_entry(row, key_name) for row, key_name in page]
    return AuditPage(items=items, next_cursor=next_cursor)
