"""Jobs and their events, as the service answers them."""

import uuid
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, Field, WithJsonSchema

from expunge.api.schemas.artifacts import JobArtifact, LatestVerdict
from expunge.api.schemas.base import NEXT_CURSOR, FromRow
from expunge.store.statuses import JobStatus

if TYPE_CHECKING:
    Status = JobStatus
    ActiveStatus = JobStatus
else:  # the values, so that OpenAPI lists them wherever they are used
    Status = Literal[tuple(status.value for status in JobStatus)]
    ActiveStatus = Literal[tuple(status.value for status in JobStatus.active())]
JobKind = Literal["erase", "hide", "evaluate", "combine", "inspect"]
NOTES = (
    "Remarks on the request, for people: names that are not in the model's vocabulary, and similar ones that"
    " are. They are not errors."
)


class JobError(FromRow):
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
            "description": "How far a running job is.",
            "properties": {
                "phase": {"type": "string", "examples": ["erase"]},
                "step": {"type": "integer", "description": "The step of the phase, from 0."},
                "total": {"type": "integer", "description": "The number of steps of the phase."},
                "loss": {"type": ["number", "null"]},
                "target": {
                    "type": ["string", "null"],
                    "description": "What the concept is being mapped to at the moment.",
                },
                "eta_s": {
                    "type": ["number", "null"],
                    "description": "Estimated seconds until the phase ends.",
                },
                "message": {"type": "string"},
            },
        }
    ),
]


class Job(FromRow):
    """A piece of work, from its request to its artifacts."""

    id: uuid.UUID
    kind: JobKind
    status: Status
    spec: dict[str, Any] = Field(description="The request, with every default filled in.")
    attempt: int = Field(description="How many times a worker has started it.")
    progress: Progress | None = Field(
        description="{phase, step, total, loss, target, eta_s, message}, as far as they apply."
    )
    artifacts: list[JobArtifact] = Field(default=[])
    verdict: dict[str, Any] | None = Field(
        description=(
            "{status, passed, checks, delivery, advice, artifact_sha256}: the report's intervals held against"
            " the requested thresholds. status is 'passed', 'failed' or 'not shown' (passed says the same as"
            " true, false and null), of the whole and of each check, which also has its value, interval,"
            " reason, and to_try: what may help, the likeliest first. delivery: 'published', 'marked' (as not"
            " passed) or 'withheld'. It is about the delta with this sha256, and about no other bytes; null:"
            " about the base model itself."
        )
    )
    latest_verdict: LatestVerdict | None = Field(
        default=None,
        description="Of the red team, after the job had ended (docs/red-team.md); `verdict` stays as signed.",
    )
    error: JobError | None
    notes: list[str] = Field(default=[], description=NOTES)
    labels: dict[str, str]
    version: int = Field(description="Increases with every change.")
    retried_from: uuid.UUID | None = Field(description="The job that this one repeats.")
    policy: Literal["red_team"] | None = Field(
        default=None, description="The operator's policy that made it; null: a client did."
    )
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class JobPage(BaseModel):
    """Newest first."""

    items: list[Job]
    next_cursor: str | None = Field(description=NEXT_CURSOR)


class DryRun(BaseModel):
    """The answer to `dry_run=true`: the request is valid; nothing was stored."""

    dry_run: Literal[True] = True
    kind: JobKind
    spec: dict[str, Any] = Field(description="The request, with every default filled in.")
    notes: list[str] = Field(default=[], description=NOTES)


class Event(FromRow):
    """Something that happened to a job."""

    seq: int = Field(description="1, 2, 3 … without gaps, for each job.")
    type: str = Field(examples=["progress"])
    data: dict[str, Any]
    created_at: datetime


class EventPage(BaseModel):
    """Oldest first."""

    items: list[Event]
    next_after: int = Field(description="Pass as `after` for the following events.")
    finished: bool = Field(
        description=(
            "Whether the job has ended and no further event will follow, unless a red team attacks"
            " what it published."
        )
    )
