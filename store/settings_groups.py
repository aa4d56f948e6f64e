"""The settings in groups: a class's docstring is its group's heading in docs/running.md, and its purpose.

Times are seconds, sizes are bytes, where a name or description says nothing else.
"""

import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, Field, SecretStr, model_validator
from pydantic_settings import NoDecode

from expunge.core.sources import ID
from expunge.core.specs.fields import SET_NAME, UUID
from expunge.store.settings_names import given_as

DATA = Path.home() / ".local" / "share" / "expunge"
MINUTE, HOUR, DAY = 60.0, 3600.0, 86_400.0
EXAMPLE = """{"emoji": "bundled:emoji", "mine": "/models/mine"}"""
EXAMPLE_SETS = """{"i2p": "/sets/i2p.csv"}"""


def split(value: Any) -> Any:
    """The members of a list that is written with commas."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def parse_models(value: Any) -> Any:
    """A JSON object: its keys are the ids that a request may name, its values their sources."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise ValueError(f"not JSON ({error}): give an object such as {EXAMPLE}") from error
    if not isinstance(value, dict) or not value:
        raise ValueError(f"must be a JSON object that names at least one model, such as {EXAMPLE}")
    for id_, source in value.items():
        if not ID.fullmatch(id_):
            raise ValueError(
                f"'{id_}' is not a valid model id: use up to 100 letters, digits, '.', '_' and '-', beginning"
                " with a letter or digit"
            )
        if not isinstance(source, str) or not source:
            raise ValueError(
                f"'{id_}' must be a string, the model's folder or hub id, such as"
                " 'organisation/name@revision'"
            )
    return value


def parse_prompt_sets(value: Any) -> Any:
    """A JSON object: its keys are the names that a request may give, its values their files."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise ValueError(f"not JSON ({error}): give an object such as {EXAMPLE_SETS}") from error
    if not isinstance(value, dict):
        raise ValueError(f"must be a JSON object of names and files, such as {EXAMPLE_SETS}")
    for name, file in value.items():
        if not SET_NAME.fullmatch(name) or UUID.fullmatch(name):
            raise ValueError(
                f"'{name}' is not a valid name: use up to 64 letters, digits, '.', '_' and '-', beginning"
                " with a letter or digit"
            )
        if not isinstance(file, str) or not file:
            raise ValueError(f"'{name}' must be a string, the path of a CSV or JSON lines file")
    return value


CommaSeparated = (NoDecode, BeforeValidator(split))
Models = Annotated[dict[str, str], NoDecode, BeforeValidator(parse_models)]
PromptSets = Annotated[dict[str, str], NoDecode, BeforeValidator(parse_prompt_sets)]


class Connections(BaseModel):
    """Connections: where jobs and files are kept. The same for every process of a deployment."""

    database_url: SecretStr = Field(
        default=SecretStr("postgresql://localhost/expunge"),
        description="PostgreSQL, which holds the queue; `DATABASE_URL`, as platforms name it, is read too.",
    )
    migration_database_url: SecretStr | None = Field(
        default=None,
        description=(
            "The same database as the owner of its tables, for `python -m expunge.store.migrate` and the"
            " operator's other commands. The migration then creates the role of EXPUNGE_DATABASE_URL, which"
            " owns nothing. Unset: EXPUNGE_DATABASE_URL is the owner."
        ),
    )
    redis_url: SecretStr = Field(
        default=SecretStr("redis://localhost:6379/0"),
        description="Redis, which wakes workers; `REDIS_URL`, as platforms name it, is read too.",
    )
    artifacts_url: str = Field(
        default=(DATA / "artifacts").as_uri(),
        description="The artifact store: file:///directory or s3://bucket/prefix (credentials as AWS_*).",
    )

    @property
    def broker_url(self) -> str:
        """Redis' URL as Celery wants it: a socket is redis+socket://."""
        return self.redis_url.get_secret_value().replace("unix://", "redis+socket://", 1)

    @property
    def redis_client_url(self) -> str:
        """Redis' URL as its client library wants it: a socket is unix://."""
        return self.redis_url.get_secret_value().replace("redis+socket://", "unix://", 1)

    @property
    def owner_url(self) -> str:
        """The database as the tables' owner reaches it."""
        return (self.migration_database_url or self.database_url).get_secret_value()


class Secrets(BaseModel):
    """Secrets: what protects API keys, links and manifests. The same for every process of a deployment."""

    secret: SecretStr = Field(
        default=SecretStr(""),
        description=(
            "Hashes API keys, signs links, encrypts webhook secrets and the signing key: `openssl rand -hex"
            " 32`. Required: nothing starts without it."
        ),
    )
    secret_previous: SecretStr = Field(
        default=SecretStr(""),
        description="The secret before, while EXPUNGE_SECRET is replaced: what it protects stays readable.",
    )
    signing_key: SecretStr | None = Field(
        default=None,
        description=(
            "Ed25519 private key that signs every manifest, as PEM or as the path of a PEM file. Unset: a key"
            " is made for the deployment and kept in the database, encrypted under EXPUNGE_SECRET."
        ),
    )

    @property
    def older_secrets(self) -> tuple[str, ...]:
        """Secrets that are accepted beside the current one."""
        return tuple(filter(None, (self.secret_previous.get_secret_value(),)))


class ModelSources(BaseModel):
    """Models: which base models and prompt sets jobs may name."""

    models: Models = Field(
        default={"emoji": "bundled:emoji"},
        description=(
            "A JSON object of model id and source: a diffusers folder, a checkpoint's .safetensors file,"
            " 'bundled:emoji', or a hub id as 'organisation/name@revision'."
        ),
    )
    prompt_sets: PromptSets = Field(
        default={},
        description=(
            "A JSON object of name and file: prompt sets in I2P's format (CSV or JSON lines) that"
            " `evaluation.prompts` may name. The same for API and workers, which read the files."
        ),
    )
    cache_dir: Path = Field(
        default=DATA / "cache",
        description="What can be computed again, such as pictures of the base models; may be deleted.",
    )


class Queue(BaseModel):
    """Queue: how jobs are announced, leased and repeated. Read by API, loops and workers."""

    lease_seconds: float = Field(
        default=60, gt=0, description="A running job whose worker is silent for this long is taken over."
    )
    heartbeat_seconds: float = Field(
        default=10, gt=0, description="Interval at which a worker extends its lease."
    )
    reaper_seconds: float = Field(default=15, gt=0, description="Interval of the reaper.")
    dispatch_seconds: float = Field(default=2, gt=0, description="Interval of the dispatcher.")
    redispatch_after_seconds: float = Field(
        default=30, gt=0, description="A queued job that nobody took is announced again after this long."
    )
    max_attempts: int = Field(default=3, ge=1, description="Attempts before a job fails as worker_lost.")
    backoff_seconds: float = Field(
        default=2,
        ge=0,
        description="Wait before the second attempt; doubles with each further one, at most five minutes.",
    )

    @model_validator(mode="after")
    def heartbeat_within_lease(self) -> Self:
        if self.heartbeat_seconds * 2 > self.lease_seconds:
            raise ValueError(
                f"{given_as('heartbeat_seconds')} must be at most half of {given_as('lease_seconds')}:"
                " otherwise one late heartbeat loses the job"
            )
        return self


class Workers(BaseModel):
    """Workers: what a worker computes on, and when it stops, restarts or rests."""

    device: str | None = Field(
        default=None,
        pattern=r"^(cpu|cuda(:\d{1,3})?)$",
        description="What a worker computes on: cuda:1, cpu. Unset: the first GPU, else the CPU.",
    )
    runner: str | None = Field(
        default=None, description="module:function that runs a job instead of expunge.core.run."
    )
    progress_seconds: float = Field(
        default=1, ge=0, description="Shortest time between two progress events of one phase."
    )
    keep_checkpoints: int = Field(default=2, ge=1, description="Checkpoints kept for each job.")
    stall_seconds: float = Field(
        default=1800, gt=0, description="A run that reports nothing for this long is killed as stalled."
    )
    cancel_seconds: float = Field(
        default=30, gt=0, description="A run that ignores its cancellation for this long is killed."
    )
    soft_shutdown_seconds: float = Field(
        default=25, gt=0, description="Time that a worker has after SIGTERM to write its last checkpoint."
    )
    tasks_per_process: int = Field(
        default=16,
        ge=1,
        description="Jobs after which a worker's process is replaced; 1 on a GPU frees all its memory.",
    )
    suspend_after_failures: int = Field(
        default=3,
        ge=1,
        description="Failures in a row, for which the worker is to blame, after which it takes no more jobs.",
    )
    self_test_seconds: float = Field(
        default=5,
        gt=0,
        description="Wait before a suspended worker tests itself again; doubles, at most 5 minutes.",
    )
    deaf_seconds: float = Field(
        default=300,
        gt=0,
        description="A worker that gets no message for this long while jobs are announced exits (1).",
    )


class ApiLimits(BaseModel):
    """API limits: what the API accepts. Read by API processes."""

    rate_limits: bool = Field(default=True, description="Whether the three rate limits below are applied.")
    reads_per_minute: int = Field(
        default=600,
        ge=1,
        description=(
            "GET and HEAD requests of one tenant, with any of its API keys; as many at once after a quiet"
            " minute."
        ),
    )
    writes_per_minute: int = Field(default=120, ge=1, description="All other requests of one tenant.")
    strangers_per_minute: int = Field(
        default=60,
        ge=1,
        description=(
            "Requests without a valid API key from one address. Probes, and requests with a valid key, are"
            " not counted."
        ),
    )
    max_streams: int = Field(
        default=128,
        ge=1,
        description=(
            "Event streams of one tenant that an API process keeps open; half as many of one API key."
        ),
    )
    max_upload_bytes: int = Field(
        default=512 * 2**20, ge=1, description="Size of the largest delta that may be uploaded."
    )
    idempotency_seconds: float = Field(
        default=DAY, gt=0, description="How long an Idempotency-Key is remembered."
    )


class Quotas(BaseModel):
    """Quotas: what a tenant may use, and what one job may ask for."""

    max_active_jobs: int = Field(
        default=1000,
        ge=1,
        description=(
            "Unfinished jobs that a tenant may have before POST answers 429. `python -m"
            " expunge.store.tenants` sets this and other quotas for one tenant."
        ),
    )
    max_running_jobs: int | None = Field(
        default=None,
        ge=1,
        description=(
            "Jobs of one tenant that run at once. Unset: as many as there are workers. Read by workers and"
            " loops."
        ),
    )
    max_jobs_a_day: int | None = Field(
        default=None, ge=1, description="Jobs that a tenant may create in a day (UTC). Unset: any number."
    )
    max_bytes: int | None = Field(
        default=None,
        ge=1,
        description=(
            "Size of all artifacts that a tenant stores, uploads and what jobs made. Unset: any size."
        ),
    )
    max_keys: int = Field(
        default=100,
        ge=1,
        description="Valid API keys of one tenant; the operator's own command may exceed the number.",
    )
    max_steps: int = Field(
        default=200_000,
        ge=1,
        description=(
            "Optimiser steps that a job may ask for in all: those of each concept, inner searches and learned"
            " words included."
        ),
    )
    max_pictures: int = Field(
        default=50_000,
        ge=1,
        description=(
            "Pictures that a job may ask for in all: to train on, to count attributes, and to judge both"
            " models."
        ),
    )
    max_run_seconds: int = Field(
        default=86_400,
        ge=60,
        le=7 * 86_400,
        description="Largest run_timeout_s of a job, and the one of a job that names none.",
    )


class Retention(BaseModel):
    """Retention and storage: how long what is stored is kept, checked and deleted. Read by loops."""

    retention_days: float | None = Field(
        default=None, gt=0, description="Days after which a job's artifacts are deleted. Unset: never."
    )
    retain_keys: bool = Field(
        default=True, description="Whether recovery keys are kept beyond EXPUNGE_RETENTION_DAYS."
    )
    upload_days: float | None = Field(
        default=None,
        gt=0,
        description="Days after which an upload that no unfinished job needs is deleted. Unset: never.",
    )
    job_days: float | None = Field(
        default=None,
        gt=0,
        description="Days after which a finished job is deleted with its artifacts. Unset: never.",
    )
    event_days: float | None = Field(
        default=None,
        gt=0,
        description="Days after which all events of a finished job but the last are deleted. Unset: never.",
    )
    verify_days: float = Field(
        default=7, gt=0, description="Days after which a stored artifact is hashed and compared again."
    )
    sweep_after_seconds: float = Field(
        default=DAY, gt=0, description="Age at which stored objects without a row are moved to quarantine."
    )
    quarantine_days: float = Field(
        default=7, ge=0, description="Days for which an object in quarantine can be restored."
    )


class RedTeam(BaseModel):
    """Red team: whether published artifacts are attacked again, how many at once. Read by loops and API."""

    red_team: Literal["off", "quick", "standard", "thorough"] = Field(
        default="off",
        description=(
            "Attack what was published again, with these attacks, once one of them is new or has a higher"
            " budget. off: nobody does, and a verdict stays what it was when it was signed. `python -m"
            " expunge.store.tenants` sets it for one tenant."
        ),
    )
    red_team_jobs: int = Field(
        default=1, ge=1, description="Jobs of the red team, of all tenants, that have not ended."
    )
    red_team_seconds: float = Field(
        default=MINUTE, gt=0, description="Interval at which the red team looks for what is due."
    )


class Webhooks(BaseModel):
    """Webhooks: where messages may go, and how often they are tried. Read by API and loops."""

    webhook_allowed_hosts: Annotated[tuple[str, ...], *CommaSeparated] = Field(
        default=(),
        description=(
            "The operator's own hosts, separated by commas: for exactly these, http, any port and private"
            " addresses are allowed."
        ),
    )
    webhook_ports: Annotated[tuple[int, ...], *CommaSeparated] = Field(
        default=(443,), description="Ports that other webhooks may name, separated by commas."
    )
    webhook_ca_file: Path | None = Field(
        default=None,
        description="PEM file of certificates to trust beside the public ones when a webhook is delivered.",
    )
    webhook_timeout_seconds: float = Field(
        default=15,
        gt=0,
        le=60,
        description="Longest duration of one attempt, from resolving the host name to the end of the answer.",
    )
    webhook_retry_seconds: Annotated[tuple[float, ...], *CommaSeparated] = Field(
        default=(5, 5 * MINUTE, 30 * MINUTE, 2 * HOUR, 5 * HOUR, 10 * HOUR, 14 * HOUR, 20 * HOUR, 24 * HOUR),
        description="Waits between attempts, separated by commas; the first attempt is made at once.",
    )
    webhook_seconds: float = Field(
        default=1, gt=0, description="Interval at which deliveries that are due are looked for."
    )
    webhook_rotation_seconds: float = Field(
        default=DAY, ge=0, description="How long the old secret signs too after a rotation."
    )
    webhook_log_seconds: float = Field(
        default=30 * DAY, gt=0, description="How long a delivery is kept after its last attempt."
    )


class Observability(BaseModel):
    """Observability: metrics and logs."""

    metrics_port: int | None = Field(
        default=None,
        ge=1,
        le=65535,
        description="Port on which a worker, or the loops, serve their metrics. Unset: none.",
    )
    metrics_host: str = Field(default="127.0.0.1", description="Address of that port.")
    metrics_public: bool = Field(
        default=False, description="Whether the API's /metrics is open to everybody."
    )
    metrics_token: SecretStr = Field(
        default=SecretStr(""),
        description="Bearer token that the API's /metrics asks for. Unset: nobody can read them.",
    )
    log_concepts: bool = Field(
        default=False, description="Whether logs hold concepts and prompts as they are, not as hashes."
    )
