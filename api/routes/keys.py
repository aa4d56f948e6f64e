"""API keys, managed with a key that has the scope `admin`. Recovery keys of hide jobs are artifacts."""

import uuid
from datetime import timedelta
from typing import Annotated

import structlog
from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse
from sqlalchemy.orm import Session

from expunge.api import pagination
from expunge.api.deps import JSON, Admin, ServicesDep, accepts
from expunge.api.idempotency import Answer, IdempotencyKeyDep, answer_once
from expunge.api.request_schemas import KeyRequest, KeyRotation
from expunge.api.responses import CREATED, IDEMPOTENT, JSON_BODY, problem_responses
from expunge.api.schemas.keys import ApiKey, ApiKeyPage, NewApiKey
from expunge.store import keys
from expunge.store.models import ApiKey as ApiKeyRow

log = structlog.get_logger("api")
router = APIRouter(tags=["keys"], dependencies=[accepts(JSON)])


def created(row: ApiKeyRow, text: str) -> Answer:
    """201 with the key's text; a repeat by Idempotency-Key does not get the text."""
    shown = NewApiKey(**ApiKey.model_validate(row).model_dump(), key=text)
    log.info("key_created", api_key_id=str(row.id))
    return Answer(
        shown,
        status=201,
        headers={"Location": f"/keys/{row.id}"},
        recorded=shown.model_copy(update={"key": None}),
    )


@router.post(
    "/keys",
    status_code=201,
    response_model=NewApiKey,
    responses=CREATED | problem_responses(*JSON_BODY, *IDEMPOTENT, "quota_exceeded"),
)
def create_key(
    body: KeyRequest, services: ServicesDep, caller: Admin, key: IdempotencyKeyDep
) -> JSONResponse:
    """Create an API key of the same tenant; its text is shown only this once.

    The number of a tenant's live keys is limited.
    """

    def work(session: Session) -> Answer:
        expires_in = None if body.expires_in_s is None else timedelta(seconds=body.expires_in_s)
        row, text = keys.create(
            session,
            services.settings.secret.get_secret_value(),
            caller.tenant_id,
            name=body.name,
            scopes=body.scopes,
            expires_in=expires_in,
            by=caller,
            at_most=services.settings.max_keys,
        )
        return created(row, text)

    return answer_once(services, caller, key, NewApiKey, work).response()


@router.get("/keys", responses=problem_responses("invalid_request"))
def list_keys(
    services: ServicesDep,
    caller: Admin,
    limit: Annotated[int, Query(ge=1, le=pagination.MAX_PAGE, description="Keys per page.")] = 50,
    cursor: pagination.Cursor = None,
) -> ApiKeyPage:
    """List the tenant's API keys, newest first, without their texts."""
    after = pagination.decode_cursor(cursor)
    with services.transaction() as session:
        rows = keys.list_keys(session, caller.tenant_id, after=after, limit=limit + 1)
        page, next_cursor = pagination.split_page(rows, limit, lambda row: row)
        items = [ApiKey.model_validate(row) for row in page]
    return ApiKeyPage(items=items, next_cursor=next_cursor)


@router.get("/keys/{key_id:uuid}", responses=problem_responses("not_found"))
def get_key(key_id: uuid.UUID, services: ServicesDep, caller: Admin) -> ApiKey:
    """Get one API key, without its text."""
    with services.transaction() as session:
        return ApiKey.model_validate(keys.get(session, caller.tenant_id, key_id))


@router.post(
    "/keys/{key_id:uuid}/rotate",
    status_code=201,
    response_model=NewApiKey,
    responses=CREATED
    | problem_responses("not_found", "wrong_state", *JSON_BODY, *IDEMPOTENT, "quota_exceeded"),
)
def rotate_key(
    key_id: uuid.UUID,
    services: ServicesDep,
    caller: Admin,
    key: IdempotencyKeyDep,
    body: KeyRotation = KeyRotation(),  # noqa: B008
) -> JSONResponse:
    """Create a key with the name, scopes and expiry of an old one, which works for another day.

    `overlap_s` sets another time. A repeat with the same Idempotency-Key does not show the text again: if the
    answer was lost, rotate again with the old key and revoke the key created in between.
    """

    def work(session: Session) -> Answer:
        row, text = keys.rotate(
            session,
            services.settings.secret.get_secret_value(),
            caller.tenant_id,
            key_id,
            overlap=timedelta(seconds=body.overlap_s),
            by=caller,
            at_most=services.settings.max_keys,
        )
        return created(row, text)

    answer = answer_once(services, caller, key, NewApiKey, work)
    services.key_cache.clear()
    return answer.response()


@router.delete("/keys/{key_id:uuid}", responses=problem_responses("not_found"))
def revoke_key(key_id: uuid.UUID, services: ServicesDep, caller: Admin) -> ApiKey:
    """Revoke an API key, from the next request on.

    Revoking it again changes nothing. The last key with the scope `admin` is replaced on the server's command
    line.
    """
    with services.transaction() as session:
        answer = ApiKey.model_validate(keys.revoke(session, caller.tenant_id, key_id, by=caller))
    services.key_cache.clear()
    return answer
