"""What the environment says: where the data lies, and how patient the service is."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Self
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict, SettingsError
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from expunge.core.sources import ID
from expunge.store.server_secret import REMEDY, placeholder, weakness

DATA = Path.home() / ".local" / "share" / "expunge"
MINUTE, HOUR = 60.0, 3600.0


def split(value: Any) -> Any:
    """Commas between the members of a list."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def registered(value: Any) -> Any:
    """EXPUNGE_MODELS: an object of JSON, whose keys are ids that a request may name and whose values are
    sources.
    """
    example = """{"emoji": "bundled:emoji", "mine": "/models/mine"}"""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise ValueError(
                f"EXPUNGE_MODELS is not JSON ({error}): give an object such as {example}"
            ) from error
    if not isinstance(value, dict) or not value:
        raise ValueError(
            f"EXPUNGE_MODELS must be a JSON object that names at least one model, such as {example}"
        )
    for id_, source in value.items():
        if not ID.fullmatch(id_):
            raise ValueError(
                f"EXPUNGE_MODELS: '{id_}' is no model id: take up to 100 letters, digits, '.', '_' and '-', a"
                " letter or digit first"
            )
        if not isinstance(source, str) or not source:
            raise ValueError(
                f"EXPUNGE_MODELS: '{id_}' must be a text, the model's folder or hub id, such as"
                " 'organisation/name@revision'"
            )
    return value


Commas = (NoDecode, BeforeValidator(split))


class Settings(BaseSettings):
    """All settings of api and worker; every field is an environment variable of the same name (or its
    alias).
    """

    model_config = SettingsConfigDict(extra="ignore", populate_by_name=True, env_ignore_empty=True)

    database_url: SecretStr = Field(
        default=SecretStr("postgresql://localhost/expunge"), description="PostgreSQL, the queue of record."
    )
    migration_database_url: SecretStr | None = Field(
        default=None,
        description=(
            "The tables' owner, for `python -m expunge.store.migrate` and other commands of the operator; it"
            " makes the role of DATABASE_URL, which then owns nothing. Omitted: DATABASE_URL is the owner."
        ),
    )
    redis_url: SecretStr = Field(
        default=SecretStr("redis://localhost:6379/0"), description="Redis, which only rings the bell."
    )
    artifacts_url: str = Field(
        default=(DATA / "artifacts").as_uri(),
        description="file:///directory or s3://bucket/prefix (credentials as AWS_*).",
    )

    secret: SecretStr = Field(
        default=SecretStr(""),
        alias="EXPUNGE_SECRET",
        description=(
            "What hashes API keys, signs links, seals webhooks' secrets and the signing key: `openssl rand"
            " -hex 32`. Nothing starts without."
        ),
    )
    secret_previous: SecretStr = Field(
        default=SecretStr(""),
        alias="EXPUNGE_SECRET_PREVIOUS",
        description=(
            "A second secret, while EXPUNGE_SECRET is being replaced: what lies under it is still understood."
        ),
    )
    models: Annotated[dict[str, str], NoDecode, BeforeValidator(registered)] = Field(
        default={"emoji": "bundled:emoji"},
        alias="EXPUNGE_MODELS",
        description=(
            "JSON: model id to source, which is a diffusers folder, 'bundled:emoji', or a hub id as"
            " 'organisation/name@revision'."
        ),
    )
    cache_dir: Path = Field(
        default=DATA / "cache",
        alias="EXPUNGE_CACHE_DIR",
        description="Base-model pictures and the like; may be deleted.",
    )
    signing_key: SecretStr | None = Field(
        default=None,
        alias="EXPUNGE_SIGNING_KEY",
        description=(
            "Ed25519 private key under every manifest, PEM or a file of it, the same for all workers;"
            " omitted: one is made for the deployment and kept in the database, sealed under EXPUNGE_SECRET."
        ),
    )
    runner: str | None = Field(
        default=None,
        alias="EXPUNGE_RUNNER",
        description="module:function that runs a job in place of expunge.core.run.",
    )

    lease_seconds: float = Field(
        default=60, gt=0, description="A running job whose worker is silent for this long is taken over."
    )
    heartbeat_seconds: float = Field(default=10, gt=0, description="Between two extensions of a lease.")
    stall_seconds: float = Field(
        default=1800,
        gt=0,
        description="A run that reports nothing for this long is stalled: its process is killed.",
    )
    cancel_seconds: float = Field(
        default=30, gt=0, description="A run that ignores its cancellation for this long is killed."
    )
    reaper_seconds: float = Field(default=15, gt=0, description="Between two rounds of the reaper.")
    dispatch_seconds: float = Field(default=2, gt=0, description="Between two rounds of the dispatcher.")
    redispatch_after_seconds: float = Field(
        default=30, gt=0, description="A queued job is announced again after this long."
    )
    backoff_seconds: float = Field(
        default=2,
        ge=0,
        description="Wait before the second attempt; doubles with each further one, at most five minutes.",
    )
    progress_seconds: float = Field(
        default=1, ge=0, description="Least time between two progress events of one phase."
    )
    max_attempts: int = Field(default=3, ge=1, description="Attempts before a job fails as worker_lost.")
    keep_checkpoints: int = Field(default=2, ge=1, description="Checkpoints kept for each job.")
    soft_shutdown_seconds: float = Field(
        default=25, gt=0, description="What a worker has for its last checkpoint after SIGTERM."
    )
    device: str | None = Field(
        default=None,
        alias="EXPUNGE_DEVICE",
        pattern=r"^(cpu|cuda(:\d{1,3})?)$",
        description="What a worker computes on: cuda:1, cpu; omitted: the first GPU, else the CPU.",
    )
    suspend_after_failures: int = Field(
        default=3,
        ge=1,
        description="A worker on which so many attempts in a row failed for its own sake takes no more jobs.",
    )
    self_test_seconds: float = Field(
        default=5,
        gt=0,
        description=(
            "Wait before a suspended worker tests itself again; doubles each time, at most five minutes."
        ),
    )
    deaf_seconds: float = Field(
        default=300,
        gt=0,
        description=(
            "A worker that hears no bell for so long, though jobs for it are announced, ends with an error."
        ),
    )
    tasks_per_process: int = Field(
        default=16,
        ge=1,
        description="Jobs after which a worker's process is replaced; 1 on a GPU frees all its memory.",
    )
    retention_days: float | None = Field(
        default=None,
        alias="EXPUNGE_RETENTION_DAYS",
        gt=0,
        description="Days after which a job's artifacts are deleted; omitted: never.",
    )
    retain_keys: bool = Field(
        default=True,
        alias="EXPUNGE_RETAIN_KEYS",
        description="Whether recovery keys outlive EXPUNGE_RETENTION_DAYS.",
    )
    upload_days: float | None = Field(
        default=None,
        alias="EXPUNGE_UPLOAD_DAYS",
        gt=0,
        description="Days after which an upload that no unfinished job needs is deleted; omitted: never.",
    )
    job_days: float | None = Field(
        default=None,
        alias="EXPUNGE_JOB_DAYS",
        gt=0,
        description="Days after which a job that has ended is removed with its artifacts; omitted: never.",
    )
    event_days: float | None = Field(
        default=None,
        alias="EXPUNGE_EVENT_DAYS",
        gt=0,
        description="Days after which an ended job's events but the last go; omitted: never.",
    )
    verify_days: float = Field(
        default=7,
        alias="EXPUNGE_VERIFY_DAYS",
        gt=0,
        description="Every stored artifact is hashed again when its last check is this old.",
    )
    metrics_port: int | None = Field(
        default=None,
        alias="EXPUNGE_METRICS_PORT",
        ge=1,
        le=65535,
        description="Where a worker, or the loops, serve metrics; omitted: nowhere.",
    )
    metrics_host: str = Field(
        default="127.0.0.1", alias="EXPUNGE_METRICS_HOST", description="The address of that port."
    )
    log_concepts: bool = Field(
        default=False,
        alias="EXPUNGE_LOG_CONCEPTS",
        description="Write concepts and prompts into the log as they are, not as hashes.",
    )
    sweep_after_seconds: float = Field(
        default=86_400, gt=0, description="Stored bytes that no row names are set aside at this age."
    )
    quarantine_days: float = Field(
        default=7,
        alias="EXPUNGE_QUARANTINE_DAYS",
        ge=0,
        description="Days for which what was set aside can be restored before it is deleted.",
    )
    idempotency_seconds: float = Field(
        default=86_400, gt=0, description="How long an Idempotency-Key is remembered."
    )
    metrics_public: bool = Field(
        default=False,
        alias="EXPUNGE_METRICS_PUBLIC",
        description="Serve the API's /metrics to everybody.",
    )
    metrics_token: SecretStr = Field(
        default=SecretStr(""),
        alias="EXPUNGE_METRICS_TOKEN",
        description="The bearer token that the API's /metrics takes; omitted: nobody reads them.",
    )
    max_active_jobs: int = Field(
        default=1000,
        ge=1,
        description=(
            "Unfinished jobs a tenant may have before POST answers 429. `python -m expunge.store.tenants`"
            " sets another number for one tenant."
        ),
    )
    max_running_jobs: int | None = Field(
        default=None,
        ge=1,
        description=(
            "Jobs of one tenant that run at once; omitted: as many as there are workers. Read by workers and"
            " loops."
        ),
    )
    max_jobs_a_day: int | None = Field(
        default=None,
        ge=1,
        description="Jobs a tenant may make between two midnights, UTC; omitted: any number.",
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
        description="Largest run_timeout_s of a job, and that of a job which names none.",
    )
    max_bytes: int | None = Field(
        default=None,
        ge=1,
        description=(
            "Bytes of stored artifacts a tenant may have, uploads and what jobs made; omitted: any number."
        ),
    )
    max_keys: int = Field(
        default=100,
        ge=1,
        description=(
            "API keys of one tenant that are alive at once; the operator's own command is not bound by it."
        ),
    )
    max_streams: int = Field(
        default=128,
        ge=1,
        description=(
            "Event streams of one tenant that an API process holds open at once; of one key half as many."
        ),
    )
    max_upload_bytes: int = Field(
        default=512 * 2**20, ge=1, description="Largest delta that may be uploaded."
    )

    rate_limits: bool = Field(
        default=True, alias="EXPUNGE_RATE_LIMITS", description="Off switch for the three limits below."
    )
    reads_per_minute: int = Field(
        default=600,
        ge=1,
        description=(
            "GET and HEAD requests of one tenant, by all of its API keys; as many at once after a quiet"
            " minute."
        ),
    )
    writes_per_minute: int = Field(default=120, ge=1, description="All other requests of one tenant.")
    strangers_per_minute: int = Field(
        default=60,
        ge=1,
        description=(
            "Requests without a valid API key from one address; probes, and requests with one, are not"
            " counted."
        ),
    )

    webhook_allowed_hosts: Annotated[tuple[str, ...], *Commas] = Field(
        default=(),
        description=(
            "Hosts of the operator's own, separated by commas: for exactly these, http, any port and private"
            " addresses are allowed."
        ),
    )
    webhook_ports: Annotated[tuple[int, ...], *Commas] = Field(
        default=(443,), description="Ports that other webhooks may name."
    )
    webhook_ca_file: Path | None = Field(
        default=None,
        description="Certificates (PEM) to trust beside the public ones when a webhook is delivered.",
    )
    webhook_timeout_seconds: float = Field(
        default=15,
        gt=0,
        le=60,
        description="All that one attempt may take, from the name's resolution to the answer's end.",
    )
    webhook_retry_seconds: Annotated[tuple[float, ...], *Commas] = Field(
        default=(5, 5 * MINUTE, 30 * MINUTE, 2 * HOUR, 5 * HOUR, 10 * HOUR, 14 * HOUR, 20 * HOUR, 24 * HOUR),
        description=(
            "Waits between the attempts at a delivery, separated by commas; the first attempt is made at"
            " once."
        ),
    )
    webhook_seconds: float = Field(
        default=1, gt=0, description="Between two looks for deliveries that are due."
    )
    webhook_rotation_seconds: float = Field(
        default=86_400, ge=0, description="How long the old secret signs too after a rotation."
    )
    webhook_log_seconds: float = Field(
        default=30 * 86_400, gt=0, description="Deliveries that ended longer ago are forgotten."
    )

    @property
    def owner_url(self) -> str:
        """The database as the tables' owner reaches it."""
        return (self.migration_database_url or self.database_url).get_secret_value()

    @property
    def older_secrets(self) -> tuple[str, ...]:
        """Secrets that are understood beside the current one."""
        return tuple(filter(None, (self.secret_previous.get_secret_value(),)))

    @model_validator(mode="after")
    def patient(self) -> Self:
        if self.heartbeat_seconds * 2 > self.lease_seconds:
            raise ValueError(
                "HEARTBEAT_SECONDS must be at most half of LEASE_SECONDS, or one late heartbeat loses the job"
            )
        return self


def read(*, secret: bool = True) -> Settings:
    """The environment's settings, for a process that starts; SystemExit says of each variable that is wrong
    what would be right.

    `secret`: whether the process hashes, signs or seals anything, so that it needs a proper EXPUNGE_SECRET.
    """
    try:
        settings = Settings()
    except ValidationError as error:
        raise SystemExit("\n".join(told(dict(entry)) for entry in error.errors())) from None
    except SettingsError as error:  # JSON that is none
        raise SystemExit(str(error)) from None
    wrong = list(faults(settings, secret))
    if wrong:
        raise SystemExit("\n".join(wrong))
    return settings


WANTED = {
    "int_": "must be a whole number",
    "float_": "must be a number",
    "finite_number": "must be a finite number",
    "bool_": "must be true or false",
    "string_pattern_mismatch": "is not in its form",
}
"""What a variable must be, by how the sort of error begins."""
BOUNDS = {
    "greater_than": "more than",
    "greater_than_equal": "at least",
    "less_than": "less than",
    "less_than_equal": "at most",
}


def told(error: dict[str, Any]) -> str:
    """What is wrong with a variable, and what would be right; never its value, which may be a secret."""
    if not error["loc"]:
        return str(error["msg"]).removeprefix("Value error, ")
    name, kind = str(error["loc"][0]), error["type"]
    variable = name.upper()
    field = next((f for own, f in Settings.model_fields.items() if variable in (own.upper(), f.alias)), None)
    means = f" ({field.description})" if field and field.description else ""
    if kind == "value_error":
        return f"{variable}: " + str(error["msg"]).removeprefix("Value error, ").removeprefix(
            f"{variable}: "
        ).removeprefix(f"{variable} ")
    if kind in BOUNDS:
        return f"{variable} must be {BOUNDS[kind]} {next(iter(error['ctx'].values())):g}{means}"
    wanted = next((words for start, words in WANTED.items() if kind.startswith(start)), "cannot be used")
    return f"{variable} {wanted}{means}"


def faults(settings: Settings, secret: bool) -> Iterator[str]:
    """What would run, but unguarded."""
    if secret and (why := weakness(settings.secret.get_secret_value())):
        yield f"EXPUNGE_SECRET {why}: {REMEDY}"
    if urlsplit(settings.artifacts_url).scheme not in ("file", "s3"):
        yield "ARTIFACTS_URL is no address of a store: write it as file:///directory or s3://bucket/prefix"
    for name, url in (("DATABASE_URL", settings.database_url), ("REDIS_URL", settings.redis_url)):
        try:
            password = make_url(url.get_secret_value()).password
        except (ArgumentError, ValueError):  # not the URL itself, which may hold a password
            yield (
                f"{name} is no URL: write it as"
                f" {name.split('_')[0].lower().replace('database', 'postgresql')}://user:password@host:port/name"
            )
            continue
        if placeholder(password or "", "replaceme", "changeme"):
            yield (
                f"{name}'s password is a placeholder: give the server one of your own ('openssl rand -hex"
                " 32') and put that into the URL"
            )


def table() -> str:
    """All settings as docs/running.md has them."""
    rows = []
    for name, field in Settings.model_fields.items():
        default = field.default
        if isinstance(default, SecretStr):
            default = default.get_secret_value()
        shown = str(default).replace(str(Path.home()), "~") if default not in (None, "", ()) else ""
        rows.append(
            f"| `{(field.alias or name).upper()}` | {f'`{shown}`' if shown else ''} |"
            f" {(field.description or '').replace('|', chr(92) + '|')} |"
        )
    return "\n".join(["| Variable | Default | |", "|---|---|---|", *rows]) + "\n"


if __name__ == "__main__":
    sys.stdout.write(table())
