"""The tables. Times are UTC and the database's own; ids are random UUIDs."""

import uuid
from datetime import date, datetime, timedelta
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    DateTime,
    ForeignKey,
    Index,
    MetaData,
    String,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from expunge.store.statuses import JobStatus, in_sql

# Conditions on a job's status, for constraints and partial indices
QUEUED = f"status = '{JobStatus.QUEUED}'"
ACTIVE = f"status in {in_sql(JobStatus.active())}"
LEASED = f"status in {in_sql(JobStatus.leased())}"
WITHHELD = "withheld"  # the key of an artifact's info that says so
ENDED = f"status in {in_sql(JobStatus.terminal())}"
JOB_MODEL = "coalesce(spec ->> 'model', '')"  # the id of a job's model, as ix_jobs_queued_model has it

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


class Base(DeclarativeBase):
    """Shared metadata; the naming convention keeps migrations reversible."""

    metadata = MetaData(naming_convention=NAMING)
    type_annotation_map = {  # noqa: RUF012
        datetime: DateTime(timezone=True),
        dict[str, Any]: JSONB,
        dict[str, str]: JSONB,
        list[str]: ARRAY(String),
        int: BigInteger,
    }


class Deployment(Base):
    """Which deployment this database is of; the artifact store's marker says the same. One row."""

    __tablename__ = "deployment"
    __table_args__ = (CheckConstraint("one", name="one"),)
    one: Mapped[bool] = mapped_column(primary_key=True, server_default=text("true"))
    id: Mapped[uuid.UUID] = mapped_column(server_default=func.gen_random_uuid())
    store_url: Mapped[str | None] = mapped_column(doc="The store (EXPUNGE_ARTIFACTS_URL) with its marker.")


class Deletion(Base):
    """Stored bytes that are to be deleted: written in the transaction that takes their row away, gone when
    they are.
    """

    __tablename__ = "deletions"
    key: Mapped[str] = mapped_column(primary_key=True)


class Tenant(Base):
    """Whose data it is."""

    __tablename__ = "tenants"
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    name: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    max_active_jobs: Mapped[int | None] = mapped_column(
        doc="Unfinished jobs; null, here and below: as the service's settings say."
    )
    max_running_jobs: Mapped[int | None] = mapped_column(doc="Jobs that run at once.")
    max_jobs_a_day: Mapped[int | None] = mapped_column(doc="Jobs made between two midnights, UTC.")
    max_bytes: Mapped[int | None] = mapped_column(doc="Of stored artifacts, uploads and what jobs made.")
    red_team: Mapped[str | None] = mapped_column(
        doc="What their published artifacts are attacked with again; null: as the service's settings say."
    )
    deleted_at: Mapped[datetime | None] = mapped_column(
        doc="Since when nothing but the audit is left of them."
    )
    last_started_at: Mapped[datetime | None] = mapped_column(
        doc="When a job of theirs was last claimed: whose turn it is."
    )


class Usage(Base):
    """How many jobs a tenant has made today.

    Its row is locked while a job is accepted, so that two requests cannot both be the last.
    """

    __tablename__ = "usage"
    tenant_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("tenants.id"), primary_key=True)
    day: Mapped[date] = mapped_column(doc="UTC.")
    jobs: Mapped[int]


class Pause(Base):
    """A queue that is paused: a tenant's own, or (no tenant) everybody's. Resuming deletes the row."""

    __tablename__ = "pauses"
    __table_args__ = (UniqueConstraint("tenant_id", postgresql_nulls_not_distinct=True),)
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    tenant_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("tenants.id"))
    hand_over: Mapped[bool] = mapped_column(
        doc="Whether running jobs are to stop at their next checkpoint, to go on later."
    )
    reason: Mapped[str] = mapped_column(server_default="", doc="For people.")
    paused_at: Mapped[datetime] = mapped_column(server_default=func.now())


class ApiKey(Base):
    """A key: only its HMAC is kept."""

    __tablename__ = "api_keys"
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    tenant_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("tenants.id"), index=True)
    name: Mapped[str]
    hint: Mapped[str] = mapped_column(doc="First characters of the key, to tell keys apart.")
    digest: Mapped[str] = mapped_column(
        unique=True,
        doc="HMAC-SHA256 of the key under the server's secret, hex: the release before asks by it.",
    )
    hashed: Mapped[str | None] = mapped_column(
        unique=True,
        doc=(
            "Name of the secret, a dot, HMAC-SHA256 of the key under that secret's own key for this; null"
            " until used anew."
        ),
    )
    scopes: Mapped[list[str]]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]


class Job(Base):
    """A job and its place in the queue; `version` is also the seq of its newest event."""

    __tablename__ = "jobs"
    __table_args__ = (
        CheckConstraint(f"status in {in_sql(JobStatus)}", name="status"),
        CheckConstraint(f"({ENDED}) = (finished_at is not null)", name="finished"),
        Index("ix_jobs_page", "tenant_id", text("created_at desc"), text("id desc")),
        Index("ix_jobs_ended", "status", postgresql_where=text("finished_at is not null")),
        Index("ix_jobs_finished", "finished_at", postgresql_where=text("finished_at is not null")),
        Index("ix_jobs_labels", "labels", postgresql_using="gin"),
        Index("ix_jobs_active", "status", "available_at", postgresql_where=text(ACTIVE)),
        Index("ix_jobs_queued", "tenant_id", "available_at", "id", postgresql_where=text(QUEUED)),
        Index(
            "ix_jobs_queued_model",
            text(JOB_MODEL),
            "tenant_id",
            "available_at",
            "id",
            postgresql_where=text(QUEUED),
        ),
        Index(
            "ix_jobs_unannounced",
            "tenant_id",
            "dispatched_at",
            "available_at",
            postgresql_where=text(QUEUED),
        ),
        Index("ix_jobs_held", "tenant_id", "lease_expires_at", postgresql_where=text(LEASED)),
        Index(
            "ix_jobs_queue_deadline",
            "queue_deadline_at",
            postgresql_where=text(f"{QUEUED} and started_at is null and queue_deadline_at is not null"),
        ),
        Index(
            "ix_jobs_run_deadline",
            "run_deadline_at",
            postgresql_where=text(f"{ACTIVE} and run_deadline_at is not null"),
        ),
    )
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    tenant_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("tenants.id"))
    kind: Mapped[str]
    status: Mapped[str] = mapped_column(server_default="queued", doc="A JobStatus.")
    spec: Mapped[dict[str, Any]] = mapped_column(doc="The resolved spec, with every default.")
    notes: Mapped[list[str]] = mapped_column(
        server_default=text("'{}'"), doc="What was noticed about the request, for people."
    )
    labels: Mapped[dict[str, str]] = mapped_column(server_default=text("'{}'"))
    version: Mapped[int] = mapped_column(
        server_default="1", doc="Grows by one on every change, each of which is an event."
    )
    retried_from: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("jobs.id"), index=True)
    policy: Mapped[str | None] = mapped_column(doc="red_team: the policy that made it; null: a client did.")

    attempt: Mapped[int] = mapped_column(
        server_default="0", doc="Grows with each claim; a hand-over at shutdown gives it back."
    )
    max_attempts: Mapped[int] = mapped_column(server_default="3")
    fence: Mapped[int] = mapped_column(
        server_default="0", doc="Grows with each claim and never shrinks: the fencing token."
    )
    lease_owner: Mapped[str | None]
    lease_expires_at: Mapped[datetime | None]
    available_at: Mapped[datetime] = mapped_column(
        server_default=func.now(), doc="Not to be claimed before (backoff)."
    )
    dispatched_at: Mapped[datetime | None] = mapped_column(doc="When the dispatcher last announced it.")
    failed_on: Mapped[list[str]] = mapped_column(
        server_default=text("'{}'"), doc="Ids of the workers that could not run it: others go first."
    )
    cancel_requested_at: Mapped[datetime | None]
    queue_deadline_at: Mapped[datetime | None]
    run_timeout_s: Mapped[int | None]
    run_deadline_at: Mapped[datetime | None] = mapped_column(
        doc="Null while the job waits: waiting is not running."
    )
    run_left: Mapped[timedelta | None] = mapped_column(
        doc="What was left of run_timeout_s when the job was handed over."
    )

    progress: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    verdict: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    latest_verdict: Mapped[dict[str, Any] | None] = mapped_column(
        JSONB(none_as_null=True), doc="Of the red team, on what the job published; `verdict` stays."
    )
    error: Mapped[dict[str, Any] | None] = mapped_column(
        JSONB(none_as_null=True), doc="code, message, retryable, attempt."
    )
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]

    request_id: Mapped[str | None] = mapped_column(
        doc="Of the request that made it; in every log line about it."
    )
    trace: Mapped[str | None] = mapped_column(doc="W3C traceparent of that request.")

    def facts(self) -> dict[str, Any]:
        """What every log line about an attempt says."""
        return {
            "request_id": self.request_id,
            "job_id": str(self.id),
            "attempt": self.attempt,
            "fence": self.fence,
        }


class Reattack(Base):
    """The last time that the red team attacked what a job published: with which suite, and what came of it.
    Written by store/red_team.py alone.
    """

    __tablename__ = "reattacks"
    __table_args__ = (CheckConstraint("state in ('running','failed','done')", name="state"),)
    job_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    suite: Mapped[str] = mapped_column(String(64), doc="Digest of the attacks.")
    state: Mapped[str]
    evaluation_id: Mapped[uuid.UUID | None] = mapped_column(
        ForeignKey("jobs.id", ondelete="SET NULL"), index=True, doc="The job that attacks, or attacked."
    )
    failures: Mapped[int] = mapped_column(server_default="0", doc="In a row, with this suite.")
    not_before: Mapped[datetime | None] = mapped_column(doc="When it may be tried again after a failure.")


class Worker(Base):
    """A worker that lives, or was lost lately: what it can run, and whether it takes jobs."""

    __tablename__ = "workers"
    __table_args__ = (CheckConstraint("state in ('starting','ready','suspended')", name="state"),)
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, doc="Of one life of the worker's process.")
    host: Mapped[str] = mapped_column(index=True)
    pid: Mapped[int]
    version: Mapped[str]
    device: Mapped[str | None] = mapped_column(
        doc="What its runs compute on; null until its self test has looked."
    )
    state: Mapped[str]
    reason: Mapped[str | None] = mapped_column(doc="Why it is suspended.")
    models: Mapped[list[str]] = mapped_column(
        server_default=text("'{}'"), doc="Ids of the models that it can run."
    )
    problems: Mapped[dict[str, str]] = mapped_column(
        server_default=text("'{}'"), doc="Ids of its other models, and what is wrong with each."
    )
    started_at: Mapped[datetime] = mapped_column(server_default=func.now())
    heartbeat_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime] = mapped_column(doc="It is lost when it is silent until then.")


class Event(Base):
    """One change of a job; `seq` counts from 1 without gaps."""

    __tablename__ = "events"
    job_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True)
    type: Mapped[str]
    data: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Idempotency(Base):
    """The first answer to a request that carried an Idempotency-Key."""

    __tablename__ = "idempotency"
    tenant_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("tenants.id"), primary_key=True)
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    request_hash: Mapped[str] = mapped_column(doc="sha256 over method, path and body.")
    job_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), index=True)
    response: Mapped[dict[str, Any] | None] = mapped_column(
        JSONB(none_as_null=True), doc="status, headers, body."
    )
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime] = mapped_column(index=True)


class Artifact(Base):
    """A stored file: a job's output, or an upload (no job)."""

    __tablename__ = "artifacts"
    __table_args__ = (
        UniqueConstraint("job_id", "name"),
        Index(
            "ix_artifacts_uploads",
            "tenant_id",
            text("created_at desc"),
            text("id desc"),
            postgresql_where=text("job_id is null and revoked_at is null and expired_at is null"),
        ),
        Index("ix_artifacts_corrupt", "corrupt_at", postgresql_where=text("corrupt_at is not null")),
    )
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    tenant_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("tenants.id"), index=True)
    job_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    kind: Mapped[str] = mapped_column(
        server_default="file", doc="file, or recovery_key: a secret with a scope of its own."
    )
    name: Mapped[str]
    media_type: Mapped[str]
    size: Mapped[int]
    sha256: Mapped[str] = mapped_column(String(64))
    key: Mapped[str] = mapped_column(unique=True, doc="Where the bytes lie in the artifact store.")
    info: Mapped[dict[str, Any]] = mapped_column(
        server_default=text("'{}'"),
        doc="What an upload was checked against, and the like; of a job's file, whether it is withheld.",
    )
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    revoked_at: Mapped[datetime | None] = mapped_column(
        doc="Since when the bytes are deleted; of recovery keys."
    )
    expired_at: Mapped[datetime | None] = mapped_column(doc="Since when the bytes are deleted for their age.")
    verified_at: Mapped[datetime] = mapped_column(
        server_default=func.now(), index=True, doc="When the bytes were last hashed."
    )
    corrupt_at: Mapped[datetime | None] = mapped_column(
        doc="Since when the bytes are known to be gone or other than their sha256."
    )

    @property
    def withheld(self) -> bool:
        """Whether nobody may download it, as the job's verdict did not pass."""
        return self.info.get(WITHHELD) is True


class ArtifactRead(Base):
    """Who was given the bytes of a recovery key, written before the first of them leaves.

    Rows are never changed.
    """

    __tablename__ = "artifact_reads"
    __table_args__ = (
        Index("ix_artifact_reads_page", "artifact_id", text("created_at desc"), text("id desc")),
    )
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    artifact_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("artifacts.id"))
    api_key_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("api_keys.id"))
    address: Mapped[str | None] = mapped_column(doc="The client's, as the server saw it.")
    request_id: Mapped[str]
    start: Mapped[int] = mapped_column(doc="First byte given.")
    stop: Mapped[int] = mapped_column(doc="The byte after the last one given.")
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Checkpoint(Base):
    """Where an attempt can go on from."""

    __tablename__ = "checkpoints"
    __table_args__ = (Index("ix_checkpoints_job_id_id", "job_id", "id"),)
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    job_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    attempt: Mapped[int]
    fence: Mapped[int]
    step: Mapped[int]
    files: Mapped[dict[str, Any]] = mapped_column(doc="name -> {key, sha256, size}")
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class SigningKey(Base):
    """A key that signs manifests, or signed some: its public half for whoever checks, its private half
    sealed, where it is ours to keep.
    """

    __tablename__ = "signing_keys"
    id: Mapped[str] = mapped_column(
        primary_key=True, doc="First 16 hex digits of the sha256 of the raw public key."
    )
    public_key: Mapped[str] = mapped_column(doc="PEM.")
    sealed: Mapped[bytes | None] = mapped_column(
        doc="The private key's PEM under EXPUNGE_SECRET; null: EXPUNGE_SIGNING_KEY holds it."
    )
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    retired_at: Mapped[datetime | None] = mapped_column(doc="Since when it signs nothing new.")
    revoked_at: Mapped[datetime | None] = mapped_column(doc="Since when nobody should trust what it signed.")


class Webhook(Base):
    """Where a tenant wants to hear of its jobs' ends."""

    __tablename__ = "webhooks"
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    tenant_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("tenants.id"), index=True)
    url: Mapped[str]
    description: Mapped[str] = mapped_column(server_default="")
    events: Mapped[list[str]]
    enabled: Mapped[bool] = mapped_column(server_default=text("true"))
    disabled_reason: Mapped[str | None] = mapped_column(
        doc="gone: the endpoint answered 410; null when a client disabled it."
    )
    sealed: Mapped[bytes] = mapped_column(doc="The signing secret, encrypted under the server's own.")
    previous: Mapped[bytes | None] = mapped_column(doc="The secret before the last rotation, encrypted.")
    previous_until: Mapped[datetime | None] = mapped_column(doc="Until when the previous secret signs too.")
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Delivery(Base):
    """A message to one webhook: written with the event it tells of, and tried until it is delivered or given
    up.
    """

    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        CheckConstraint("status in ('pending','delivered','failed')", name="status"),
        CheckConstraint("(status = 'pending') = (finished_at is null)", name="finished"),
        Index("ix_webhook_deliveries_page", "webhook_id", text("created_at desc"), text("id desc")),
        Index("ix_webhook_deliveries_due", "next_attempt_at", postgresql_where=text("status = 'pending'")),
    )
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    webhook_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("webhooks.id", ondelete="CASCADE"))
    job_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), index=True)
    event: Mapped[str]
    body: Mapped[str] = mapped_column(
        Text, doc="The exact text that is signed and sent, the same at every attempt."
    )
    status: Mapped[str] = mapped_column(server_default="pending")
    attempt: Mapped[int] = mapped_column(
        server_default="0", doc="Of this round of the schedule; a redelivery starts a new round."
    )
    fence: Mapped[int] = mapped_column(
        server_default="0",
        doc="Grows with each claim and redelivery: an attempt that was overtaken writes nothing.",
    )
    next_attempt_at: Mapped[datetime] = mapped_column(server_default=func.now())
    leased_until: Mapped[datetime | None]
    log: Mapped[list[Any]] = mapped_column(
        JSONB, server_default=text("'[]'"), doc="The last attempts: {at, status, error, seconds}."
    )
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    finished_at: Mapped[datetime | None]


class Audit(Base):
    """Who did what to what, when and from where.

    PostgreSQL refuses to change or delete a row (a trigger of the migration's).
    """

    __tablename__ = "audit"
    __table_args__ = (
        Index("ix_audit_page", "tenant_id", text("created_at desc"), text("id desc")),
        Index("ix_audit_target", "target_id"),
    )
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    tenant_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("tenants.id"))
    api_key_id: Mapped[uuid.UUID | None] = mapped_column(
        ForeignKey("api_keys.id"), doc="Null: the operator at the server, or the service itself."
    )
    address: Mapped[str | None] = mapped_column(doc="The client's, as the server saw it.")
    request_id: Mapped[str | None]
    action: Mapped[str]
    target_type: Mapped[str]
    target_id: Mapped[uuid.UUID]
    details: Mapped[dict[str, Any]] = mapped_column(
        server_default=text("'{}'"), doc="Never a concept's text, a label or a secret."
    )
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
