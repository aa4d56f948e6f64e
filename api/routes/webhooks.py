"""Webhooks: told of jobs' ends by signed messages (Standard Webhooks)."""

import uuid
from datetime import timedelta
from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Query, Response
from fastapi.responses import JSONResponse
from sqlalchemy.orm import Session

from expunge.api import pagination
from expunge.api.deps import JSON, ServicesDep, TicketDep, WebhooksWriter, accepts
from expunge.api.idempotency import Done, once
from expunge.api.problems import invalid, responses
from expunge.api.request_schemas import WebhookPatch, WebhookRequest
from expunge.api.routes.jobs import CREATED
from expunge.api.schemas import Delivery, DeliveryAttempt, DeliveryPage, NewWebhook, Webhook, WebhookList
from expunge.api.services import Services
from expunge.store import webhook_deliveries, webhooks
from expunge.store.models import Delivery as DeliveryRow, Webhook as WebhookRow
from expunge.store.webhook_deliveries import message_id
from expunge.store.webhook_targets import Refused, target

log = structlog.get_logger("api")
router = APIRouter(tags=["webhooks"], dependencies=[accepts(JSON)])
BODY = ("malformed_request", "payload_too_large", "unsupported_media_type", "invalid_request")
POSTED = ("bad_header", "idempotency_in_flight", "idempotency_mismatch")
LOCATED: dict[int | str, dict[str, Any]] = {
    201: {
        "description": "Made.",
        "headers": {name: CREATED[202]["headers"][name] for name in ("Location", "Idempotency-Replayed")},
    }
}


def check(services: Services, url: str) -> None:
    """422 for a URL that will not be sent to; where its host leads is checked at each attempt."""
    try:
        target(url, services.settings)
    except Refused as error:
        message, _, remedy = str(error).partition(": ")
        raise invalid("url", message, remedy) from error


def with_secret(row: WebhookRow, text: str, status: int) -> Done:
    shown = NewWebhook(**Webhook.model_validate(row).model_dump(), secret=text)
    return Done(
        shown,
        status=status,
        headers={"Location": f"/webhooks/{row.id}"},
        kept=shown.model_copy(update={"secret": None}),
    )


def view(row: DeliveryRow) -> Delivery:
    return Delivery(
        **{
            name: getattr(row, name)
            for name in ("id", "webhook_id", "job_id", "event", "status", "created_at", "finished_at")
        },
        message_id=message_id(row.id),
        attempts=[DeliveryAttempt.model_validate(entry) for entry in row.log],
        next_attempt_at=row.next_attempt_at if row.status == "pending" else None,
    )


@router.post(
    "/webhooks",
    status_code=201,
    response_model=NewWebhook,
    responses=LOCATED | responses(*BODY, *POSTED, "wrong_state"),
)
def create_webhook(
    body: WebhookRequest, services: ServicesDep, caller: WebhooksWriter, ticket: TicketDep
) -> JSONResponse:
    """Be told of jobs' ends: signed messages to a URL of yours; its secret is shown this once.

    At most 20 webhooks.
    """
    check(services, body.url)

    def work(session: Session) -> Done:
        secret = services.settings.secret.get_secret_value()
        row, text = webhooks.create(session, caller.tenant_id, caller, **body.model_dump(), secret=secret)
        log.info("webhook_created", webhook_id=str(row.id))
        return with_secret(row, text, 201)

    return once(services, caller, ticket, NewWebhook, work).response()


@router.get("/webhooks", responses=responses())
def list_webhooks(services: ServicesDep, caller: WebhooksWriter) -> WebhookList:
    """List the webhooks, newest first."""
    with services.transaction() as session:
        return WebhookList(
            items=[Webhook.model_validate(row) for row in webhooks.list_webhooks(session, caller.tenant_id)]
        )


@router.get("/webhooks/{webhook_id:uuid}", responses=responses("not_found"))
def get_webhook(webhook_id: uuid.UUID, services: ServicesDep, caller: WebhooksWriter) -> Webhook:
    """Look at one webhook."""
    with services.transaction() as session:
        return Webhook.model_validate(webhooks.get(session, caller.tenant_id, webhook_id))


@router.patch("/webhooks/{webhook_id:uuid}", responses=responses("not_found", *BODY))
def change_webhook(
    webhook_id: uuid.UUID, body: WebhookPatch, services: ServicesDep, caller: WebhooksWriter
) -> Webhook:
    """Change a webhook's URL, events or description; disable it, or enable it again."""
    if body.url is not None:
        check(services, body.url)
    with services.transaction() as session:
        return Webhook.model_validate(
            webhooks.change(session, caller.tenant_id, webhook_id, caller, body.model_dump(exclude_none=True))
        )


@router.delete(
    "/webhooks/{webhook_id:uuid}", status_code=204, response_class=Response, responses=responses("not_found")
)
def delete_webhook(webhook_id: uuid.UUID, services: ServicesDep, caller: WebhooksWriter) -> Response:
    """Remove a webhook with its deliveries, sent or not."""
    with services.transaction() as session:
        webhooks.remove(session, caller.tenant_id, webhook_id, caller)
    return Response(status_code=204)


@router.post(
    "/webhooks/{webhook_id:uuid}/rotate", response_model=NewWebhook, responses=responses("not_found", *POSTED)
)
def rotate_webhook_secret(
    webhook_id: uuid.UUID, services: ServicesDep, caller: WebhooksWriter, ticket: TicketDep
) -> JSONResponse:
    """Make a new secret, shown this once; for a day (EXPUNGE_WEBHOOK_ROTATION_SECONDS) messages carry a
    signature of the old one too.
    """

    def work(session: Session) -> Done:
        settings = services.settings
        overlap = timedelta(seconds=settings.webhook_rotation_seconds)
        secret = settings.secret.get_secret_value()
        row, text = webhooks.rotate(
            session, caller.tenant_id, webhook_id, caller, secret=secret, overlap=overlap
        )
        return with_secret(row, text, 200)

    return once(services, caller, ticket, NewWebhook, work).response()


@router.post(
    "/webhooks/{webhook_id:uuid}/ping",
    status_code=202,
    response_model=Delivery,
    responses=responses("not_found", "wrong_state", *POSTED),
)
def ping_webhook(
    webhook_id: uuid.UUID, services: ServicesDep, caller: WebhooksWriter, ticket: TicketDep
) -> JSONResponse:
    """Send a message of type `ping`, to try a webhook out; what came of it is among its deliveries."""

    def work(session: Session) -> Done:
        return Done(view(webhook_deliveries.ping(session, caller.tenant_id, webhook_id, caller)))

    return once(services, caller, ticket, Delivery, work).response()


@router.get("/webhooks/{webhook_id:uuid}/deliveries", responses=responses("not_found", "invalid_request"))
def list_deliveries(
    webhook_id: uuid.UUID,
    services: ServicesDep,
    caller: WebhooksWriter,
    limit: Annotated[int, Query(ge=1, le=pagination.MAX_PAGE, description="Deliveries on a page.")] = 50,
    cursor: pagination.Cursor = None,
) -> DeliveryPage:
    """List what was sent and what came of it, newest first; kept for 30 days (EXPUNGE_WEBHOOK_LOG_SECONDS)
    after the last attempt.
    """
    after = pagination.decode(cursor)
    with services.transaction() as session:
        rows = webhook_deliveries.list_deliveries(
            session, webhooks.get(session, caller.tenant_id, webhook_id), after=after, limit=limit + 1
        )
        page, next_cursor = pagination.cut(rows, limit, lambda row: row)
        items = [view(row) for row in page]
    return DeliveryPage(items=items, next_cursor=next_cursor)


@router.post(
    "/webhooks/{webhook_id:uuid}/deliveries/{delivery_id:uuid}/redeliver",
    status_code=202,
    response_model=Delivery,
    responses=responses("not_found", "wrong_state", *POSTED),
)
def redeliver(
    webhook_id: uuid.UUID,
    delivery_id: uuid.UUID,
    services: ServicesDep,
    caller: WebhooksWriter,
    ticket: TicketDep,
) -> JSONResponse:
    """Send the same message again, under the same `webhook-id`, with the whole schedule before it."""

    def work(session: Session) -> Done:
        return Done(
            view(webhook_deliveries.redeliver(session, caller.tenant_id, webhook_id, delivery_id, caller))
        )

    return once(services, caller, ticket, Delivery, work).response()
