"""Webhooks: signed messages (Standard Webhooks) to the client's own URL when jobs end."""

import uuid
from datetime import timedelta
from typing import Annotated

import structlog
from fastapi import APIRouter, Query, Response
from fastapi.responses import JSONResponse
from sqlalchemy.orm import Session

from expunge.api import pagination
from expunge.api.deps import JSON, ServicesDep, WebhooksWriter, accepts
from expunge.api.idempotency import Answer, IdempotencyKeyDep, answer_once
from expunge.api.problems import invalid
from expunge.api.request_schemas import WebhookPatch, WebhookRequest
from expunge.api.responses import CREATED, IDEMPOTENT, JSON_BODY, problem_responses
from expunge.api.schemas.webhooks import (
    Delivery,
    DeliveryAttempt,
    DeliveryPage,
    NewWebhook,
    Webhook,
    WebhookList,
)
from expunge.api.services import Services
from expunge.store import webhook_deliveries, webhooks
from expunge.store.models import Delivery as DeliveryRow, Webhook as WebhookRow
from expunge.store.webhook_deliveries import message_id
from expunge.store.webhook_targets import Refused, parse_target

log = structlog.get_logger("api")
router = APIRouter(tags=["webhooks"], dependencies=[accepts(JSON)])


def check_url(services: Services, url: str) -> None:
    """Check the URL itself; the addresses of its host are checked at each attempt.

    Raises: Problem `invalid_request` for a URL that messages will not be sent to.
    """
    try:
        parse_target(url, services.settings)
    except Refused as error:
        message, _, remedy = str(error).partition(": ")
        raise invalid("url", message, remedy) from error


def with_secret(row: WebhookRow, text: str, status: int) -> Answer:
    """The webhook with its secret; a repeat by Idempotency-Key does not get the secret."""
    shown = NewWebhook(**Webhook.model_validate(row).model_dump(), secret=text)
    return Answer(
        shown,
        status=status,
        headers={"Location": f"/webhooks/{row.id}"},
        recorded=shown.model_copy(update={"secret": None}),
    )


def serialize_delivery(row: DeliveryRow) -> Delivery:
    copied = ("id", "webhook_id", "job_id", "event", "status", "created_at", "finished_at")
    return Delivery(
        **{name: getattr(row, name) for name in copied},
        message_id=message_id(row.id),
        attempts=[DeliveryAttempt.model_validate(entry) for entry in row.log],
        next_attempt_at=row.next_attempt_at if row.status == "pending" else None,
    )


@router.post(
    "/webhooks",
    status_code=201,
    response_model=NewWebhook,
    responses=CREATED | problem_responses(*JSON_BODY, *IDEMPOTENT, "wrong_state"),
)
def create_webhook(
    body: WebhookRequest, services: ServicesDep, caller: WebhooksWriter, key: IdempotencyKeyDep
) -> JSONResponse:
    """Create a webhook, which is notified when jobs end; its secret is shown only this once.

    A tenant may have 20 webhooks. Messages are signed as Standard Webhooks describes.
    """
    check_url(services, body.url)

    def work(session: Session) -> Answer:
        secret = services.settings.secret.get_secret_value()
        row, text = webhooks.create(session, caller.tenant_id, caller, **body.model_dump(), secret=secret)
        log.info("webhook_created", webhook_id=str(row.id))
        return with_secret(row, text, 201)

    return answer_once(services, caller, key, NewWebhook, work).response()


@router.get("/webhooks", responses=problem_responses())
def list_webhooks(services: ServicesDep, caller: WebhooksWriter) -> WebhookList:
    """List the webhooks, newest first."""
    with services.transaction() as session:
        return WebhookList(
            items=[Webhook.model_validate(row) for row in webhooks.list_webhooks(session, caller.tenant_id)]
        )


@router.get("/webhooks/{webhook_id:uuid}", responses=problem_responses("not_found"))
def get_webhook(webhook_id: uuid.UUID, services: ServicesDep, caller: WebhooksWriter) -> Webhook:
    """Get one webhook."""
    with services.transaction() as session:
        return Webhook.model_validate(webhooks.get(session, caller.tenant_id, webhook_id))


@router.patch("/webhooks/{webhook_id:uuid}", responses=problem_responses("not_found", *JSON_BODY))
def change_webhook(
    webhook_id: uuid.UUID, body: WebhookPatch, services: ServicesDep, caller: WebhooksWriter
) -> Webhook:
    """Change a webhook's URL, events or description; disable or enable it."""
    if body.url is not None:
        check_url(services, body.url)
    with services.transaction() as session:
        return Webhook.model_validate(
            webhooks.change(session, caller.tenant_id, webhook_id, caller, body.model_dump(exclude_none=True))
        )


@router.delete(
    "/webhooks/{webhook_id:uuid}",
    status_code=204,
    response_class=Response,
    responses=problem_responses("not_found"),
)
def delete_webhook(webhook_id: uuid.UUID, services: ServicesDep, caller: WebhooksWriter) -> Response:
    """Delete a webhook with its deliveries, sent or not."""
    with services.transaction() as session:
        webhooks.delete_webhook(session, caller.tenant_id, webhook_id, caller)
    return Response(status_code=204)


@router.post(
    "/webhooks/{webhook_id:uuid}/rotate",
    response_model=NewWebhook,
    responses=problem_responses("not_found", *IDEMPOTENT),
)
def rotate_webhook_secret(
    webhook_id: uuid.UUID, services: ServicesDep, caller: WebhooksWriter, key: IdempotencyKeyDep
) -> JSONResponse:
    """Create a new secret, which is shown only this once.

    For a day (EXPUNGE_WEBHOOK_ROTATION_SECONDS) messages are also signed with the old secret.
    """

    def work(session: Session) -> Answer:
        settings = services.settings
        overlap = timedelta(seconds=settings.webhook_rotation_seconds)
        secret = settings.secret.get_secret_value()
        row, text = webhooks.rotate(
            session, caller.tenant_id, webhook_id, caller, secret=secret, overlap=overlap
        )
        return with_secret(row, text, 200)

    return answer_once(services, caller, key, NewWebhook, work).response()


@router.post(
    "/webhooks/{webhook_id:uuid}/ping",
    status_code=202,
    response_model=Delivery,
    responses=problem_responses("not_found", "wrong_state", *IDEMPOTENT),
)
def ping_webhook(
    webhook_id: uuid.UUID, services: ServicesDep, caller: WebhooksWriter, key: IdempotencyKeyDep
) -> JSONResponse:
    """Send a message of type `ping`, to test a webhook; its outcome is listed among the deliveries."""

    def work(session: Session) -> Answer:
        return Answer(
            serialize_delivery(webhook_deliveries.ping(session, caller.tenant_id, webhook_id, caller))
        )

    return answer_once(services, caller, key, Delivery, work).response()


@router.get(
    "/webhooks/{webhook_id:uuid}/deliveries", responses=problem_responses("not_found", "invalid_request")
)
def list_deliveries(
    webhook_id: uuid.UUID,
    services: ServicesDep,
    caller: WebhooksWriter,
    limit: Annotated[int, Query(ge=1, le=pagination.MAX_PAGE, description="Deliveries per page.")] = 50,
    cursor: pagination.Cursor = None,
) -> DeliveryPage:
    """List a webhook's deliveries and their outcomes, newest first.

    They are kept for 30 days (EXPUNGE_WEBHOOK_LOG_SECONDS) after the last attempt.
    """
    after = pagination.decode_cursor(cursor)
    with services.transaction() as session:
        rows = webhook_deliveries.list_deliveries(
            session, webhooks.get(session, caller.tenant_id, webhook_id), after=after, limit=limit + 1
        )
        page, next_cursor = pagination.split_page(rows, limit, lambda row: row)
        items = [serialize_delivery(row) for row in page]
    return DeliveryPage(items=items, next_cursor=next_cursor)


@router.post(
    "/webhooks/{webhook_id:uuid}/deliveries/{delivery_id:uuid}/redeliver",
    status_code=202,
    response_model=Delivery,
    responses=problem_responses("not_found", "wrong_state", *IDEMPOTENT),
)
def redeliver(
    webhook_id: uuid.UUID,
    delivery_id: uuid.UUID,
    services: ServicesDep,
    caller: WebhooksWriter,
    key: IdempotencyKeyDep,
) -> JSONResponse:
    """Send the same message again, with the same `webhook-id` and all its attempts."""

    def work(session: Session) -> Answer:
        return Answer(
            serialize_delivery(
                webhook_deliveries.redeliver(session, caller.tenant_id, webhook_id, delivery_id, caller)
            )
        )

    return answer_once(services, caller, key, Delivery, work).response()
