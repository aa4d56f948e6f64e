"""Rows of stored files: what jobs made, and uploads. The bytes are in store/blobs.py."""

import uuid
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import case, exists, func, select, tuple_, update
from sqlalchemy.orm import Session

from expunge.store import blob_deletions
from expunge.store.blobs import LAYOUT
from expunge.store.errors import NotFound
from expunge.store.models import ApiKey, Artifact, ArtifactRead, Checkpoint, Job, Tenant

RECOVERY_KEY = "recovery_key"
STORED = (Artifact.revoked_at.is_(None), Artifact.expired_at.is_(None))
"""Conditions: the bytes are meant to be in the store."""


def get(session: Session, tenant_id: uuid.UUID, artifact_id: uuid.UUID, *, lock: bool = False) -> Artifact:
    """One artifact. `lock`: nobody deletes it before this transaction ends.

    Raises: NotFound, for another tenant's artifact too.
    """
    query = select(Artifact).where(Artifact.id == artifact_id, Artifact.tenant_id == tenant_id)
    row = session.scalar(query.with_for_update(read=True) if lock else query)
    if row is None:
        raise NotFound(f"no artifact {artifact_id}")
    return row


def get_many(session: Session, tenant_id: uuid.UUID, ids: Collection[uuid.UUID]) -> dict[uuid.UUID, Artifact]:
    """The tenant's artifacts among these, by id, in one statement.

    Nobody deletes them before this transaction ends.
    """
    query = select(Artifact).where(Artifact.id.in_(ids), Artifact.tenant_id == tenant_id)
    found = session.scalars(query.with_for_update(read=True))
    return {row.id: row for row in found}


def list_of_job(session: Session, tenant_id: uuid.UUID, job_id: uuid.UUID) -> Sequence[Artifact]:
    """A job's artifacts, by name."""
    query = select(Artifact).where(Artifact.job_id == job_id, Artifact.tenant_id == tenant_id)
    return session.scalars(query.order_by(Artifact.name)).all()


def list_of_jobs(
    session: Session, tenant_id: uuid.UUID, job_ids: Sequence[uuid.UUID]
) -> dict[uuid.UUID, list[Artifact]]:
    """The artifacts of each of these jobs, by name, in one query."""
    rows = session.scalars(
        select(Artifact)
        .where(Artifact.job_id.in_(job_ids), Artifact.tenant_id == tenant_id)
        .order_by(Artifact.name)
    )
    found: dict[uuid.UUID, list[Artifact]] = {job_id: [] for job_id in job_ids}
    for row in rows:
        if row.job_id is not None:
            found[row.job_id].append(row)
    return found


def add_upload(
    session: Session,
    tenant_id: uuid.UUID,
    *,
    name: str,
    media_type: str,
    size: int,
    sha256: str,
    key: str,
    info: dict[str, Any] | None = None,
) -> Artifact:
    """Write the row of an upload whose bytes are stored under `key`."""
    row = Artifact(
        tenant_id=tenant_id,
        job_id=None,
        name=name,
        media_type=media_type,
        size=size,
        sha256=sha256,
        key=key,
        info=info or {},
    )
    session.add(row)
    session.flush()
    session.refresh(row)
    return row


def record_read(
    session: Session,
    artifact_id: uuid.UUID,
    api_key_id: uuid.UUID,
    *,
    address: str | None,
    request_id: str,
    start: int,
    stop: int,
) -> None:
    """Record that bytes [start, stop) of a recovery key are sent to the holder of an API key.

    To be committed before the first of them is sent.
    """
    session.add(
        ArtifactRead(
            artifact_id=artifact_id,
            api_key_id=api_key_id,
            address=address,
            request_id=request_id,
            start=start,
            stop=stop,
        )
    )
    session.flush()


def list_reads(
    session: Session, artifact: Artifact, *, after: tuple[datetime, uuid.UUID] | None = None, limit: int = 50
) -> Sequence[tuple[ArtifactRead, str]]:
    """Who read an artifact, newest first, each with the name of the API key.

    `after`: (created_at, id) of the last read of the page before.
    """
    query = select(ArtifactRead, ApiKey.name).join(ApiKey, ApiKey.id == ArtifactRead.api_key_id)
    query = query.where(ArtifactRead.artifact_id == artifact.id)
    if after is not None:
        query = query.where(tuple_(ArtifactRead.created_at, ArtifactRead.id) < tuple_(*after))
    rows = session.execute(
        query.order_by(ArtifactRead.created_at.desc(), ArtifactRead.id.desc()).limit(limit)
    )
    return [(row, name) for row, name in rows]


def revoke(session: Session, artifact: Artifact) -> Artifact:
    """Give out its bytes to nobody from the commit on, and schedule their deletion; may be repeated."""
    if artifact.revoked_at is None:
        artifact.revoked_at = func.now()
        blob_deletions.schedule(session, [artifact.key])
        session.flush()
        session.refresh(artifact)
    return artifact


def list_uploads(
    session: Session,
    tenant_id: uuid.UUID,
    *,
    media_type: str | None = None,
    after: tuple[datetime, uuid.UUID] | None = None,
    limit: int = 50,
) -> Sequence[Artifact]:
    """A tenant's uploads that are not deleted, newest first.

    `after`: (created_at, id) of the last upload of the page before.
    """
    query = select(Artifact).where(Artifact.tenant_id == tenant_id, Artifact.job_id.is_(None), *STORED)
    if media_type is not None:
        query = query.where(Artifact.media_type == media_type)
    if after is not None:
        query = query.where(tuple_(Artifact.created_at, Artifact.id) < tuple_(*after))
    return session.scalars(query.order_by(Artifact.created_at.desc(), Artifact.id.desc()).limit(limit)).all()


def stored_bytes(session: Session, tenant_id: uuid.UUID) -> int:
    """Size of a tenant's artifacts in the store. Checkpoints, which come and go, are not counted, nor is what
    a policy's jobs made.
    """
    unasked = exists().where(Job.id == Artifact.job_id, Job.policy.is_not(None))
    size = select(func.coalesce(func.sum(Artifact.size), 0))
    return int(session.scalar(size.where(Artifact.tenant_id == tenant_id, *STORED, ~unasked)) or 0)


def list_unverified(session: Session, age: timedelta, limit: int) -> Sequence[Artifact]:
    """Stored artifacts whose bytes were not hashed within `age`, those with the oldest check first."""
    query = select(Artifact).where(*STORED, Artifact.verified_at < func.now() - age)
    return session.scalars(query.order_by(Artifact.verified_at).limit(limit)).all()


def record_check(session: Session, artifact_id: uuid.UUID, *, whole: bool) -> None:
    """Record whether the stored bytes are whole; those restored from a backup are no longer corrupt.

    An artifact that was revoked or expired meanwhile is left as it is.
    """
    since = None if whole else case((Artifact.corrupt_at.is_(None), func.now()), else_=Artifact.corrupt_at)
    values = {"verified_at": func.now(), "corrupt_at": since}
    session.execute(
        update(Artifact).where(Artifact.id == artifact_id, *STORED).values(values),
        execution_options={"synchronize_session": False},
    )


def count_corrupt(session: Session) -> int:
    """How many artifacts of all tenants are known to be corrupt, for the metrics."""
    return (
        session.scalar(
            select(func.count()).select_from(Artifact).where(Artifact.corrupt_at.is_not(None), *STORED)
        )
        or 0
    )


def find_referenced(session: Session, keys: Sequence[str]) -> set[str]:
    """Which of these storage keys belong to a stored artifact, or to a checkpoint."""
    found = set(session.scalars(select(Artifact.key).where(Artifact.key.in_(keys), *STORED)))
    jobs = {
        uuid.UUID(match[2])
        for key in keys
        if key not in found and (match := LAYOUT.fullmatch(key)) and match[2]
    }
    for files in session.scalars(select(Checkpoint.files).where(Checkpoint.job_id.in_(jobs))):
        found.update(file["key"] for file in files.values())
    return found.intersection(keys)


def find_own(session: Session, keys: Sequence[str]) -> set[str]:
    """Which of these storage keys have our layout and a tenant of this database."""
    found = {key: uuid.UUID(match[1]) for key in keys if (match := LAYOUT.fullmatch(key))}
    tenants = set(session.scalars(select(Tenant.id).where(Tenant.id.in_(set(found.values())))))
    return {key for key, tenant in found.items() if tenant in tenants}


def find_orphans(session: Session, keys: Sequence[str]) -> list[str]:
    """Which of these storage keys are our own, and belong to no row."""
    mine = find_own(session, keys)
    known = find_referenced(session, list(mine))
    return [key for key in keys if key in mine and key not in known]


def list_newest_keys(session: Session, limit: int) -> list[str]:
    """Storage keys of the newest artifacts and checkpoints: their bytes must be in the store."""
    found = list(
        session.scalars(select(Artifact.key).where(*STORED).order_by(Artifact.created_at.desc()).limit(limit))
    )
    newest = select(Checkpoint.files).order_by(Checkpoint.id.desc()).limit(limit)
    return found + [file["key"] for files in session.scalars(newest) for file in files.values()]
