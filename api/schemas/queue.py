"""The tenant's queue, as the service answers it."""

from datetime import datetime
from typing import Literal

from pydantic import Field

from expunge.api.schemas.base import FromRow
from expunge.api.schemas.jobs import ActiveStatus


class Pause(FromRow):
    """A pause in force."""

    paused_at: datetime
    hand_over: bool = Field(
        description="Whether running jobs stop at their next checkpoint and continue after the pause."
    )
    reason: str


class Quotas(FromRow):
    """The tenant's limits; null means no limit."""

    max_active_jobs: int = Field(description="Jobs queued or running; above it, POST answers 429.")
    max_running_jobs: int | None = Field(description="Jobs that run at once; above it, they wait.")
    max_jobs_a_day: int | None = Field(
        description="Jobs created between two midnights UTC; above it, POST answers 429."
    )
    max_bytes: int | None = Field(
        description="Bytes of stored artifacts, uploads and jobs' files alike; above it, POST answers 429."
    )


class Queue(FromRow):
    """The tenant's queue."""

    state: Literal["running", "paused"]
    pause: Pause | None = Field(description="The tenant's own pause.")
    maintenance: Pause | None = Field(description="The operator's pause, of the whole service.")
    jobs: dict[ActiveStatus, int] = Field(description="Unfinished jobs by status.")
    jobs_today: int = Field(description="Jobs created since midnight UTC.")
    blocked: dict[str, str] = Field(
        description=(
            "Models that queued jobs need and no worker has, each with the reason. The jobs start once a"
            " worker has the model."
        )
    )
    quotas: Quotas
