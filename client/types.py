"""The service's answers, typed; fields that a newer server adds are kept."""

from datetime import datetime
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict

TERMINAL = frozenset({"succeeded", "failed", "cancelled", "expired"})
Status = Literal["queued", "running", "cancelling", "succeeded", "failed", "cancelled", "expired"]
T = TypeVar("T")


class Answer(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True)


class Artifact(Answer):
    """A file that a job made, or an upload. `size` in bytes, `sha256` in hex."""

    id: str
    name: str
    media_type: str
    size: int
    sha256: str
    kind: str = "file"
    job_id: str | None = None
    created_at: datetime | None = None
    revoked_at: datetime | None = None
    expired_at: datetime | None = None
    corrupt_at: datetime | None = None
    withheld: bool = False
    verdict: dict[str, Any] | None = None


class ArtifactLink(Answer):
    """An address that gives an artifact's bytes without an API key until it expires; a secret."""

    url: str
    expires_at: datetime


class KeyRead(Answer):
    """One read of bytes [start, stop) of a recovery key; `api_key` has the reader's id and name."""

    id: str
    read_at: datetime
    api_key: dict[str, str]
    address: str | None = None
    request_id: str
    start: int
    stop: int


class JobError(Answer):
    """Why a job failed."""

    code: str
    message: str
    retryable: bool = False
    attempt: int | None = None


class Validated(Answer):
    """A checked request: the spec with every default, and notes about it."""

    kind: str
    spec: dict[str, Any]
    notes: list[str] = []


class Job(Answer):
    """A piece of work, from its request to its artifacts."""

    id: str
    kind: str
    status: Status
    spec: dict[str, Any]
    attempt: int = 0
    progress: dict[str, Any] | None = None
    artifacts: list[Artifact] = []
    verdict: dict[str, Any] | None = None
    latest_verdict: dict[str, Any] | None = None
    error: JobError | None = None
    notes: list[str] = []
    labels: dict[str, str] = {}
    version: int = 0
    retried_from: str | None = None
    policy: str | None = None
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None

    @property
    def finished(self) -> bool:
        return self.status in TERMINAL

    @property
    def outcome(self) -> str | None:
        """The verdict in a word: "passed", "failed" or "not shown"; None where nothing was judged."""
        if self.verdict is None:
            return None
        words: dict[Any, str] = {True: "passed", False: "failed"}  # of services that say it by `passed` alone
        return str(self.verdict.get("status") or words.get(self.verdict.get("passed"), "not shown"))

    @property
    def passed(self) -> bool | None:
        """The same as True, False, or None where there is no verdict or it was not shown."""
        return {"passed": True, "failed": False}.get(self.outcome or "")

    @property
    def ok(self) -> bool:
        """Whether the job succeeded and its verdict is "passed", or no threshold was asked for."""
        thresholds = (self.verdict or {}).get("checks")
        return self.status == "succeeded" and (self.outcome == "passed" or not thresholds)


class Event(Answer):
    """Something that happened to a job; `seq` counts 1, 2, 3 … without gaps."""

    seq: int
    type: str
    data: dict[str, Any]
    created_at: datetime | None = None


class Model(Answer):
    """A model that jobs may name."""

    id: str
    title: str
    kind: str
    vocabulary: dict[str, Any] | None = None


class Impact(Answer):
    """The predicted impact of an erasure: hurt concepts, best targets, cost in seconds and U-Net calls."""

    model: str
    method: str
    hurt: list[dict[str, Any]]
    targets: list[dict[str, Any]]
    cost: dict[str, Any] | None = None
    scale: float | None = None
    held_out: dict[str, float] = {}
    notes: list[str] = []


class Comparison(Answer):
    """Several jobs side by side: the concepts in common, what makes them less comparable, their figures.

    `jobs` have the letters by which `metrics` name them.
    """

    concepts: list[str]
    jobs: list[dict[str, Any]]
    differences: list[dict[str, str]]
    notes: list[str] = []
    parameters: list[dict[str, Any]] = []
    metrics: list[dict[str, Any]]


class Pause(Answer):
    """A pause of the queue in force."""

    paused_at: datetime
    hand_over: bool
    reason: str = ""


class Queue(Answer):
    """The tenant's queue: its pause, the operator's (`maintenance`), jobs by status, quotas (None: none)."""

    state: Literal["running", "paused"]
    pause: Pause | None = None
    maintenance: Pause | None = None
    jobs: dict[str, int]
    jobs_today: int
    blocked: dict[str, str] = {}
    quotas: dict[str, int | None]


class Page(Answer, Generic[T]):
    """One page of a list; `next_cursor` is None on the last."""

    items: list[T]
    next_cursor: str | None = None


class FieldError(Answer):
    """What is wrong with one field of a request."""

    field: str
    message: str
    remedy: str | None = None


class Problem(Answer):
    """RFC 9457 problem details."""

    type: str = "about:blank"
    code: str = "unknown"
    title: str = ""
    status: int
    detail: str = ""
    instance: str | None = None
    request_id: str | None = None
    errors: list[FieldError] = []
