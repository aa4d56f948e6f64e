"""Health and signing keys, as the service answers them."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, Field

from expunge.api.schemas.base import FromRow


class SigningKey(FromRow):
    """An Ed25519 key that signs manifests and certificates, or has signed some."""

    id: str = Field(
        description=(
            "The value of `signed_by` in a manifest, of `key_id` in its signature and of `keyid` in the"
            " certificate's: 16 hex digits of the sha256 of the raw key."
        )
    )
    public_key: str = Field(description="PEM.")
    created_at: datetime
    retired_at: datetime | None = Field(
        description=("When it stopped signing; what it signed before stays valid. Null while it signs.")
    )


class SigningKeys(BaseModel):
    """Every key to trust, newest first; none before the first manifest is signed."""

    items: list[SigningKey]


class Health(BaseModel):
    status: Literal["ok", "degraded"]
    checks: dict[str, str] = {}
