"""What the service answers."""

import uuid
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from expunge.api import signed_urls
from expunge.core.delta_format import LORA_FILE
from expunge.core.specs.base import Spec
from expunge.store.audit import Action as AuditAction
from expunge.store.statuses import JobStatus
from expunge.store.webhooks import Event as WebhookEvent

if TYPE_CHECKING:
    Status = JobStatus
    ActiveStatus = JobStatus
else:  # its values, so that OpenAPI spells them out where they are used
    Status = Literal[tuple(status.value for status in JobStatus)]
    ActiveStatus = Literal[tuple(status.value for status in JobStatus.active())]
JobKind = Literal["erase", "hide", "evaluate", "combine", "inspect"]
ArtifactKind = Literal["file", "recovery_key"]
KindField = Field(
    description=(
        "A `recovery_key` is a secret: its content takes the scope `keys:read`, every read is noted, and it"
        " can be revoked."
    )
)


class Answer(BaseModel):
    """Read straight from the store's rows."""

    model_config = ConfigDict(from_attributes=True)


class Artifact(Answer):
    """A file that a job made, or a client uploaded."""

    id: uuid.UUID
    job_id: uuid.UUID | None = Field(description="The job that made it; null for an upload.")
    kind: ArtifactKind = KindField
    name: str = Field(examples=[LORA_FILE])
    media_type: str
    size: int = Field(description="Bytes.")
    sha256: str = Field(description="Of the content, in hex; also its strong ETag.")
    created_at: datetime
    revoked_at: datetime | None = Field(
        description="Since when a recovery key's bytes are deleted; null while they are not."
    )
    expired_at: datetime | None = Field(
        default=None,
        description="Since when the bytes are deleted, on request or for their age; null while they are not.",
    )
    corrupt_at: datetime | None = Field(
        default=None,
        description="Since when the bytes are known to be damaged or gone; null while they are not.",
    )


class LinkSpec(Spec):
    """How long a link is to be good."""

    lifetime_s: int = Field(
        default=signed_urls.LONGEST, ge=1, le=signed_urls.LONGEST, description="Seconds until it expires."
    )


class ArtifactLink(BaseModel):
    """An address that gives one artifact's bytes to whoever has it: treat it as a secret."""

    url: str = Field(description="For GET, without an API key; ranges work.")
    expires_at: datetime


class JobArtifact(Answer):
    """An artifact as a job lists it."""

    id: uuid.UUID
    kind: ArtifactKind = KindField
    name: str
    media_type: str
    size: int
    sha256: str


class JobError(Answer):
    """Why a job failed."""

    code: str = Field(examples=["worker_lost"])
    message: str
    retryable: bool = Field(default=False, description="Whether POST /jobs/{id}/retry may help.")
    attempt: int | None = None


Progress = Annotated[
    dict[str, Any],
    WithJsonSchema(
        {
            "type": "object",
            "description": "Where a running job is.",
            "properties": {
                "phase": {"type": "string", "examples": ["erase"]},
                "step": {"type": "integer", "description": "Of the phase, from 0."},
                "total": {"type": "integer", "description": "Steps of the phase."},
                "loss": {"type": ["number", "null"]},
                "target": {
                    "type": ["string", "null"],
                    "description": "What the concept is steered to just now.",
                },
                "eta_s": {"type": ["number", "null"], "description": "Seconds that the phase still takes."},
                "message": {"type": "string"},
            },
        }
    ),
]


class Job(Answer):
    """A piece of work, from its request to its artifacts."""

    id: uuid.UUID
    kind: JobKind
    status: Status
    spec: dict[str, Any] = Field(description="The request, with every default filled in.")
    attempt: int = Field(description="How often a worker has started it.")
    progress: Progress | None = Field(
        description="{phase, step, total, loss, target, eta_s, message}, as far as they apply."
    )
    artifacts: list[JobArtifact] = []
    verdict: dict[str, Any] | None = Field(
        description=(
            "{passed, checks, advice}: the report against the thresholds asked for; advice says of each check"
            " that did not pass by how much, and what may help."
        )
    )
    error: JobError | None
    notes: list[str] = Field(
        default=[],
        description=(
            "What was noticed about the request, for people: names that the model's vocabulary lacks, and"
            " which come near. No errors."
        ),
    )
    labels: dict[str, str]
    version: int = Field(description="Grows with every change.")
    retried_from: uuid.UUID | None = Field(description="The job that this one repeats.")
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class JobPage(BaseModel):
    """Newest first."""

    items: list[Job]
    next_cursor: str | None = Field(description="Pass as `cursor` for the next page; null on the last.")


class Event(Answer):
    """Something that happened to a job."""

    seq: int = Field(description="1, 2, 3 … without gaps, per job.")
    type: str = Field(examples=["progress"])
    data: dict[str, Any]
    created_at: datetime


class EventPage(BaseModel):
    """Oldest first."""

    items: list[Event]
    next_after: int = Field(description="Pass as `after` for what follows.")
    finished: bool = Field(description="Whether the job has ended and no further event will come.")


class ArtifactList(BaseModel):
    items: list[Artifact]


class ArtifactPage(BaseModel):
    """Newest first."""

    items: list[Artifact]
    next_cursor: str | None = Field(description="Pass as `cursor` for the next page; null on the last.")


class ApiKeyName(BaseModel):
    """An API key, by name."""

    id: uuid.UUID
    name: str


class ArtifactRead(BaseModel):
    """Somebody was given bytes of a recovery key."""

    id: uuid.UUID
    read_at: datetime
    api_key: ApiKeyName = Field(description="The key that the request carried.")
    address: str | None = Field(description="The client's address, as the server saw it.")
    request_id: str = Field(description="Also in the server's log.")
    start: int = Field(description="First byte given.")
    stop: int = Field(description="The byte after the last one given.")


class ArtifactReadPage(BaseModel):
    """Newest first."""

    items: list[ArtifactRead]
    next_cursor: str | None = Field(description="Pass as `cursor` for the next page; null on the last.")


class ApiKey(Answer):
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
    """An API key, the one time that its text is shown."""

    key: str | None = Field(
        description="Keep it: it cannot be had again. Null in the answer to a repeat by Idempotency-Key."
    )


class ApiKeyPage(BaseModel):
    """Newest first; revoked and expired keys too."""

    items: list[ApiKey]
    next_cursor: str | None = Field(description="Pass as `cursor` for the next page; null on the last.")


class Pause(Answer):
    """A pause in force."""

    paused_at: datetime
    hand_over: bool = Field(
        description="Whether running jobs stop at their next checkpoint, to go on after the pause."
    )
    reason: str


class Quotas(Answer):
    """What the tenant may have; null: no limit."""

    max_active_jobs: int = Field(description="Jobs queued or running; beyond it, POST answers 429.")
    max_running_jobs: int | None = Field(description="Jobs that run at once; beyond it, they wait.")
    max_jobs_a_day: int | None = Field(
        description="Jobs made between two midnights UTC; beyond it, POST answers 429."
    )
    max_bytes: int | None = Field(
        description="Of stored artifacts, uploads and what jobs made; beyond it, POST answers 429."
    )


class Queue(Answer):
    """The tenant's queue."""

    state: Literal["running", "paused"]
    pause: Pause | None = Field(description="The tenant's own pause.")
    maintenance: Pause | None = Field(description="The operator's, of the whole service.")
    jobs: dict[ActiveStatus, int] = Field(description="Unfinished jobs by status.")
    jobs_today: int = Field(description="Jobs made since midnight UTC.")
    blocked: dict[str, str] = Field(
        description=(
            "Models that queued jobs wait for in vain, and why: they start once a worker has the model."
        )
    )
    quotas: Quotas


class AuditTarget(BaseModel):
    """What was acted on."""

    type: Literal["job", "artifact", "recovery_key", "key", "webhook", "queue", "tenant"]
    id: uuid.UUID


class AuditEntry(BaseModel):
    """An act: who, when, from where, what, to what."""

    id: uuid.UUID
    at: datetime
    api_key: ApiKeyName | None = Field(
        description=(
            "The key that the request carried; null for the operator at the server, and the service itself."
        )
    )
    address: str | None = Field(description="The client's address, as the server saw it.")
    request_id: str | None = Field(description="Also in the server's log.")
    action: AuditAction
    target: AuditTarget
    details: dict[str, Any] = Field(
        description="Facts of the act; never a concept's text, a label or a secret."
    )


class AuditPage(BaseModel):
    """Newest first."""

    items: list[AuditEntry]
    next_cursor: str | None = Field(description="Pass as `cursor` for the next page; null on the last.")


class Webhook(Answer):
    """Where a tenant hears of its jobs' ends."""

    id: uuid.UUID
    url: str
    description: str
    events: list[WebhookEvent]
    enabled: bool
    disabled_reason: Literal["gone"] | None = Field(
        description="`gone`: the endpoint answered 410. Null when a client disabled it."
    )
    previous_until: datetime | None = Field(
        description="Until when messages carry a signature of the secret before the last rotation too."
    )
    created_at: datetime


class NewWebhook(Webhook):
    """A webhook, the one time that its secret is shown."""

    secret: str | None = Field(
        description=(
            "Standard Webhooks secret, `whsec_…`. Keep it: it cannot be had again. Null in the answer to a"
            " repeat by Idempotency-Key."
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
    """One try; of the answer, only its status is kept."""

    at: datetime
    status: int | None = Field(description="HTTP status of the answer; null when there was none.")
    error: DeliveryError | None = Field(description="Null when it was delivered.")
    seconds: float


class Delivery(Answer):
    """A message to a webhook and what came of it."""

    id: uuid.UUID
    webhook_id: uuid.UUID
    job_id: uuid.UUID | None = Field(description="Null for a ping.")
    message_id: str = Field(description="The `webhook-id` header, the same at every attempt.")
    event: WebhookEvent | Literal["ping"]
    status: Literal["pending", "delivered", "failed"]
    attempts: list[DeliveryAttempt] = Field(description="The last 20, oldest first.")
    next_attempt_at: datetime | None = Field(description="Null when there will be none.")
    created_at: datetime
    finished_at: datetime | None


class DeliveryPage(BaseModel):
    """Newest first."""

    items: list[Delivery]
    next_cursor: str | None = Field(description="Pass as `cursor` for the next page; null on the last.")


class Vocabulary(BaseModel):
    """What the model knows by name."""

    concepts: int
    styles: list[str]
    examples: list[str] = Field(description="Some of its concepts.")


class Model(BaseModel):
    """A model that jobs may name."""

    id: str
    title: str
    kind: Literal["bundled", "local", "hub"]
    revision: str | None = Field(
        description="The hub's branch, tag or commit that it is pinned to; null without one."
    )
    architecture: str | None = Field(
        description=(
            "Such as 'Stable Diffusion 1.x'; null where its files are not seen by the API, or do not load."
        )
    )
    usable: bool | None = Field(
        description="Whether jobs may name it; null where no host has seen its files yet."
    )
    problem: str | None = Field(description="Why it cannot be used, and how that is mended.")
    vocabulary: Vocabulary | None = Field(description="Null when the model comes with none.")


class ModelList(BaseModel):
    items: list[Model]


class DryRun(BaseModel):
    """The answer to `dry_run=true`: the request is valid, nothing was stored."""

    dry_run: Literal[True] = True
    kind: JobKind
    spec: dict[str, Any] = Field(description="The request, with every default filled in.")
    notes: list[str] = Field(
        default=[],
        description=(
            "What was noticed about the request, for people: names that the model's vocabulary lacks, and"
            " which come near. No errors."
        ),
    )


class SigningKey(Answer):
    """An Ed25519 key that signs manifests, or signed some."""

    id: str = Field(
        description=(
            "As `signed_by` in a manifest and `key_id` in its signature name it: 16 hex digits of the sha256"
            " of the raw key."
        )
    )
    public_key: str = Field(description="PEM.")
    created_at: datetime
    retired_at: datetime | None = Field(
        description="Since when it signs nothing new; what it signed before stays good. Null while it signs."
    )


class SigningKeys(BaseModel):
    """Every key to be trusted, the newest first; none before the first manifest is signed."""

    items: list[SigningKey]


class Health(BaseModel):
    status: Literal["ok", "degraded"]
    checks: dict[str, str] = {}


class PredictedDrop(Answer):
    """A predicted drop, and the interval that holds 80 % of the errors held out when it was fitted."""

    value: float
    low: float
    high: float


class HurtConcept(Answer):
    """A concept that the erasure is predicted to hurt."""

    concept: str
    erased: str = Field(description="The erased concept nearest to it.")
    distance: float = Field(description="Between the two, in the model's text encoder.")
    clip: PredictedDrop = Field(description="Drop in CLIP score, in points (0 to 100).")
    psr: PredictedDrop = Field(description="Drop in PSR-1, as a share.")


class ProposedTarget(Answer):
    """What a concept may become."""

    target: str
    distance: float
    g0: float = Field(
        description="CLIP score of the base model's own pictures of it: its generation capability."
    )
    reason: str


class ConceptTargets(BaseModel):
    """Targets for one concept, the best first."""

    concept: str
    targets: list[ProposedTarget]


class EstimatedCost(Answer):
    """What the job would take."""

    seconds: float = Field(
        description="Of the erasure alone, on the two CPU cores it was measured on; a GPU takes less."
    )
    unet_evaluations: int


class Impact(BaseModel):
    """What an erasure is predicted to hurt."""

    model: str
    method: str
    hurt: list[HurtConcept] = Field(description="The concepts predicted to lose most, the worst first.")
    targets: list[ConceptTargets] = Field(
        description="In-class concepts, close but no synonyms: what AGE calls fantastic targets."
    )
    cost: EstimatedCost | None = Field(description="Null where the method was not measured.")
    scale: float | None = Field(
        description=(
            "How much the method hurts beside the one the graph was measured with; predictions are scaled by"
            " it. Null where it was not measured: then 1."
        )
    )
    held_out: dict[str, float] = Field(description="How good the fit is on erasures that it has not seen.")
    notes: list[str]
