"""API keys, by whoever has one with the scope admin. Recovery keys of hide jobs are artifacts, not these."""

import uuid
from datetime import timedelta
from typing import Annotated

import structlog
from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse
from sqlalchemy.orm import Session

from expunge.api import pagination
from expunge.api.deps import JSON, Admin, ServicesDep, TicketDep, accepts
from expunge.api.idempotency import Done, once
from expunge.api.problems import responses
from expunge.api.request_schemas import KeyRequest, KeyRotation
from expunge.api.routes.webhooks import BODY, LOCATED, POSTED
from expunge.api.schemas import ApiKey, ApiKeyPage, NewApiKey
from expunge.store import keys
from expunge.store.models import ApiKey as ApiKeyRow

log = structlog.get_logger("api")
router = APIRouter(tags=["keys"], dependencies=[accepts(JSON)])


def with_text(row: ApiKeyRow, text: str) -> Done:
    shown = NewApiKey(**ApiKey.model_validate(row).model_dump(), key=text)
    log.info("key_created", api_key_id=str(row.id))
    return Done(
        shown,
        status=201,
        headers={"Location": f"/keys/{row.id}"},
        kept=shown.model_copy(update={"key": None}),
    )


@router.post(
    "/keys",
    status_code=201,
    response_model=NewApiKey,
    responses=LOCATED | responses(*BODY, *POSTED, "quota_exceeded"),
)
def create_key(body: KeyRequest, services: ServicesDep, caller: Admin, ticket: TicketDep) -> JSONResponse:
    """Make an API key of the same tenant; its text is shown this once.

    A tenant has a bounded number of live keys.
    """

    def work(session: Session) -> Done:
        expires_in = None if body.expires_in_s is None else timedelta(seconds=body.expires_in_s)
        secret = services.settings.secret.get_secret_value()
        most = services.settings.max_keys
        made = keys.create(
            session,
            secret,
            caller.tenant_id,
            name=body.name,
            scopes=body.scopes,
            expires_in=expires_in,
            by=caller,
            at_most=most,
        )
        return with_text(*made)

    return once(services, caller, ticket, NewApiKey, work).response()


@router.get("/keys", responses=responses("invalid_request"))
def list_keys(
    services: ServicesDep,
    caller: Admin,
    limit: Annotated[int, Query(ge=1, le=pagination.MAX_PAGE, description="Keys on a page.")] = 50,
    cursor: pagination.Cursor = None,
) -> ApiKeyPage:
    """List the tenant's API keys, newest first, without their texts."""
    after = pagination.decode(cursor)
    with services.transaction() as session:
        rows = keys.list_keys(session, caller.tenant_id, after=after, limit=limit + 1)
        page, next_cursor = pagination.cut(rows, limit, lambda row: row)
        items = [ApiKey.model_validate(row) for row in page]
    return ApiKeyPage(items=items, next_cursor=next_cursor)


@router.get("/keys/{key_id:uuid}", responses=responses("not_found"))
def get_key(key_id: uuid.UUID, services: ServicesDep, caller: Admin) -> ApiKey:
    """Look at one API key."""
    with services.transaction() as session:
        return ApiKey.model_validate(keys.get(session, caller.tenant_id, key_id))


@router.post(
    "/keys/{key_id:uuid}/rotate",
    status_code=201,
    response_model=NewApiKey,
    responses=LOCATED | responses("not_found", "wrong_state", *BODY, *POSTED, "quota_exceeded"),
)
def rotate_key(
    key_id: uuid.UUID,
    services: ServicesDep,
    caller: Admin,
    ticket: TicketDep,
    body: KeyRotation = KeyRotation(),  # noqa: B008
) -> JSONResponse:
    """Make a new key with the name, scopes and end of an old one, which works for a day more, or for
    `overlap_s`.

    A repetition with the same Idempotency-Key shows no text: if the answer was lost, rotate again with the
    old key and revoke the one in between.
    """

    def work(session: Session) -> Done:
        secret = services.settings.secret.get_secret_value()
        overlap, most = timedelta(seconds=body.overlap_s), services.settings.max_keys
        return with_text(
            *keys.rotate(session, secret, caller.tenant_id, key_id, overlap=overlap, by=caller, at_most=most)
        )

    done = once(services, caller, ticket, NewApiKey, work)
    services.known.forget()
    return done.response()


@router.delete("/keys/{key_id:uuid}", responses=responses("not_found"))
def revoke_key(key_id: uuid.UUID, services: ServicesDep, caller: Admin) -> ApiKey:
    """Revoke an API key, from the next request on.

    Twice is the same as once; the last key with `admin` is replaced at the server's command line.
    """
    with services.transaction() as session:
        answer = ApiKey.model_validate(keys.revoke(session, caller.tenant_id, key_id, by=caller))
    services.known.forget()
    return answer
