"""Artifacts, as the service answers them."""

import uuid
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

from expunge.api.schemas.base import NEXT_CURSOR, ApiKeyName, FromRow
from expunge.core.delta_format import LORA_FILE

ArtifactKind = Literal["file", "recovery_key"]
KindField = Field(
    description=(
        "A `recovery_key` is a secret: downloading it takes the scope `keys:read`, every read is recorded,"
        " and it can be revoked."
    )
)


WithheldField = Field(
    default=False,
    description=(
        "Whether it cannot be downloaded, because the job's verdict is not 'passed' and its request says"
        " `evaluation.on_fail: withhold`."
    ),
)


class Artifact(FromRow):
    """A file that a job made, or that a client uploaded."""

    id: uuid.UUID
    job_id: uuid.UUID | None = Field(description="The job that made it; null for an upload.")
    kind: ArtifactKind = KindField
    name: str = Field(examples=[LORA_FILE])
    media_type: str
    size: int = Field(description="Bytes.")
    sha256: str = Field(description="Of the content, in hex; also its strong ETag.")
    created_at: datetime
    revoked_at: datetime | None = Field(
        description="When a recovery key was revoked and its bytes deleted; null while it is not."
    )
    expired_at: datetime | None = Field(
        default=None,
        description="When the bytes were deleted, on request or because of their age; null while they exist.",
    )
    corrupt_at: datetime | None = Field(
        default=None,
        description="When the bytes were found to be damaged or missing; null while they are intact.",
    )
    withheld: bool = WithheldField


class AttackOutcome(BaseModel):
    """An attack on an erased concept, and what came of it."""

    attack: str
    concept: str
    status: Literal["withstood", "broken", "not shown"]
    asr: float = Field(description="Attack success rate, of the attack's best attempt.")
    ci_low: float
    ci_high: float
    decides: bool = Field(description="Whether the verdict rests on it.")
    made: dict[str, Any] = Field(description="The attack's name, version and budget.")


class LatestVerdict(BaseModel):
    """The red team's latest verdict on what a job published: judged as the job was, and attacked."""

    status: Literal["passed", "failed", "not shown"]
    passed: bool | None
    at: datetime = Field(description="When the attacks ended.")
    job_id: uuid.UUID = Field(description="The evaluate job that attacked.")
    suite: str = Field(description="Digest of the attacks with their versions and budgets.")
    checks: list[dict[str, Any]] = Field(
        default=[],
        description="What it rests on: what was looked at again, and what was not and stands as it was.",
    )
    attacks: list[AttackOutcome]


class SignedVerdict(BaseModel):
    """The verdict in the bundle's certificate, which never changes."""

    status: Literal["passed", "failed", "not shown"]
    at: datetime


class ArtifactVerdict(BaseModel):
    """What is known of a delta: what was signed, and what the red team found later."""

    signed: SignedVerdict
    latest: LatestVerdict | None = Field(description="Null where the red team has not attacked it.")
    red_team: Literal["off", "quick", "standard", "thorough"] = Field(
        description="The policy that attacks it again once its attacks have grown; off: nobody does."
    )


class ArtifactDetails(Artifact):
    """An artifact, with the verdict on it."""

    verdict: ArtifactVerdict | None = Field(
        default=None, description="Of a delta that was judged; null for every other file."
    )


class ArtifactList(BaseModel):
    items: list[Artifact]


class ArtifactPage(BaseModel):
    """Newest first."""

    items: list[Artifact]
    next_cursor: str | None = Field(description=NEXT_CURSOR)


class JobArtifact(FromRow):
    """An artifact as a job lists it."""

    id: uuid.UUID
    kind: ArtifactKind = KindField
    name: str
    media_type: str
    size: int
    sha256: str
    withheld: bool = WithheldField


class ArtifactLink(BaseModel):
    """An address from which anyone who has it can download one artifact: treat it as a secret."""

    url: str = Field(description="For GET, without an API key; ranges work.")
    expires_at: datetime


class ArtifactRead(BaseModel):
    """A download of a recovery key, or of a part of it."""

    id: uuid.UUID
    read_at: datetime
    api_key: ApiKeyName = Field(description="The API key of the request.")
    address: str | None = Field(description="The client's address, as the server saw it.")
    request_id: str = Field(description="Also in the server's log.")
    start: int = Field(description="The first byte that was sent.")
    stop: int = Field(description="The byte after the last one that was sent.")


class ArtifactReadPage(BaseModel):
    """Newest first."""

    items: list[ArtifactRead]
    next_cursor: str | None = Field(description=NEXT_CURSOR)
