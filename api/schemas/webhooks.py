"""Webhooks and their deliveries, as the service answers them."""

import uuid
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, Field

from expunge.api.schemas.base import NEXT_CURSOR, FromRow
from expunge.store.webhooks import EVENTS

# Words that a later release may add to are no closed list: who reads its rows must not stumble over them
KINDS = f"{', '.join(f'`{event}`' for event in EVENTS)}; later releases may have more."


class Webhook(FromRow):
    """An address that is notified when the tenant's jobs end."""

    id: uuid.UUID
    url: str
    description: str
    events: list[str] = Field(description=KINDS)
    enabled: bool
    disabled_reason: Literal["gone"] | None = Field(
        description="`gone`: the endpoint answered 410. Null when a client disabled it."
    )
    previous_until: datetime | None = Field(
        description="Until when messages are also signed with the secret from before the last rotation."
    )
    created_at: datetime


class NewWebhook(Webhook):
    """A webhook, with its secret, which is shown only this once."""

    secret: str | None = Field(
        description=(
            "A Standard Webhooks secret, `whsec_…`. Keep it: it cannot be shown again. Null in the answer to"
            " a repeat by Idempotency-Key."
        )
    )


class WebhookList(BaseModel):
    """All of them, newest first."""

    items: list[Webhook]


DeliveryError = Literal[
    "host_refused",
    "timeout",
    "unreachable",
    "tls_failed",
    "bad_answer",
    "http_status",
    "redirected",
    "secret_unreadable",
    "internal_error",
]


class DeliveryAttempt(BaseModel):
    """One attempt to deliver; only the status of the answer is kept."""

    at: datetime
    status: int | None = Field(description="HTTP status of the answer; null when there was none.")
    error: DeliveryError | None = Field(description="Null when it was delivered.")
    seconds: float


class Delivery(FromRow):
    """A message to a webhook, and its attempts."""

    id: uuid.UUID
    webhook_id: uuid.UUID
    job_id: uuid.UUID | None = Field(description="Null for a ping.")
    message_id: str = Field(description="The `webhook-id` header, the same at every attempt.")
    event: str = Field(description=f"{KINDS} Or `ping`.")
    status: Literal["pending", "delivered", "failed"]
    attempts: list[DeliveryAttempt] = Field(description="The last 20, oldest first.")
    next_attempt_at: datetime | None = Field(description="Null when there will be none.")
    created_at: datetime
    finished_at: datetime | None


class DeliveryPage(BaseModel):
    """Newest first."""

    items: list[Delivery]
    next_cursor: str | None = Field(description=NEXT_CURSOR)
