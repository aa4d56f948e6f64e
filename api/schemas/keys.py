"""API keys and the audit trail, as the service answers them."""

import uuid
from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field

from expunge.api.schemas.base import NEXT_CURSOR, ApiKeyName, FromRow


class ApiKey(FromRow):
    """An API key, without its text."""

    id: uuid.UUID
    name: str
    hint: str = Field(description="Its first characters, to tell keys apart.", examples=["ex_live_7Hq2"])
    scopes: list[str]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None = Field(description="To the minute.")


class NewApiKey(ApiKey):
    """An API key, with its text, which is shown only this once."""

    key: str | None = Field(
        description="Keep it: it cannot be shown again. Null in the answer to a repeat by Idempotency-Key."
    )


class ApiKeyPage(BaseModel):
    """Newest first; revoked and expired keys too."""

    items: list[ApiKey]
    next_cursor: str | None = Field(description=NEXT_CURSOR)


class AuditTarget(BaseModel):
    """What was acted on."""

    type: str = Field(
        description=(
            "The action's first word: job, artifact, recovery_key, key, webhook, queue or tenant; later"
            " releases may have more."
        )
    )
    id: uuid.UUID


class AuditEntry(BaseModel):
    """One action: who did what, to what, when and from where."""

    id: uuid.UUID
    at: datetime
    api_key: ApiKeyName | None = Field(
        description=(
            "The API key of the request; null for the operator at the server and for the service itself."
        )
    )
    address: str | None = Field(description="The client's address, as the server saw it.")
    request_id: str | None = Field(description="Also in the server's log.")
    action: str = Field(description="As in `GET /audit?action=…`; later releases may have more.")
    target: AuditTarget
    details: dict[str, Any] = Field(
        description="Facts about the action; never a concept's text, a label or a secret."
    )


class AuditPage(BaseModel):
    """Newest first."""

    items: list[AuditEntry]
    next_cursor: str | None = Field(description=NEXT_CURSOR)
