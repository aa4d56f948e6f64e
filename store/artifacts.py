"""Rows of stored files; the bytes are in store/blobs.py."""

import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import func, select, tuple_
from sqlalchemy.orm import Session

from store.errors import NotFound
from store.models import ApiKey, Artifact, ArtifactRead, Checkpoint

RECOVERY_KEY = "recovery_key"


def get(session: Session, tenant_id: uuid.UUID, artifact_id: uuid.UUID) -> Artifact:
    """One artifact, or NotFound (another tenant's too)."""
    row = session.scalar(select(Artifact).where(Artifact.id == artifact_id, Artifact.tenant_id == tenant_id))
    if row is None:
        raise NotFound(f"no artifact {artifact_id}")
    return row


def of_job(session: Session, tenant_id: uuid.UUID, job_id: uuid.UUID) -> Sequence[Artifact]:
    """A job's artifacts, by name."""
    query = select(Artifact).where(Artifact.job_id == job_id, Artifact.tenant_id == tenant_id)
    return session.scalars(query.order_by(Artifact.name)).all()


def of_jobs(session: Session, tenant_id: uuid.UUID, job_ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, list[Artifact]]:
    """The artifacts of a page of jobs in one query."""
    rows = session.scalars(select(Artifact).where(Artifact.job_id.in_(job_ids), Artifact.tenant_id == tenant_id).order_by(Artifact.name))
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
    """The row of an uploaded file whose bytes are stored under `key`."""
    row = Artifact(tenant_id=tenant_id, job_id=None, name=name, media_type=media_type, size=size, sha256=sha256, key=key, info=info or {})
    session.add(row)
    session.flush()
    session.refresh(row)
    return row


def record_read(
    session: Session, artifact_id: uuid.UUID, api_key_id: uuid.UUID, *, address: str | None, request_id: str, start: int, stop: int
) -> None:
    """Note that a key's holder is given bytes [start, stop) of a recovery key; to be committed before the first of them is sent."""
    session.add(
        ArtifactRead(artifact_id=artifact_id, api_key_id=api_key_id, address=address, request_id=request_id, start=start, stop=stop)
    )
    session.flush()


def reads(
    session: Session, artifact: Artifact, *, after: tuple[datetime, uuid.UUID] | None = None, limit: int = 50
) -> Sequence[tuple[ArtifactRead, str]]:
    """Who read it, newest first, each with the name of the API key; `after` is (created_at, id) of the last row of the page before."""
    query = select(ArtifactRead, ApiKey.name).join(ApiKey, ApiKey.id == ArtifactRead.api_key_id)
    query = query.where(ArtifactRead.artifact_id == artifact.id)
    if after is not None:
        query = query.where(tuple_(ArtifactRead.created_at, ArtifactRead.id) < tuple_(*after))
    rows = session.execute(query.order_by(ArtifactRead.created_at.desc(), ArtifactRead.id.desc()).limit(limit))
    return [(row, name) for row, name in rows]


def revoke(session: Session, artifact: Artifact) -> Artifact:
    """From the commit on, nobody is given its bytes, which the caller then deletes. Revoking twice changes nothing."""
    if artifact.revoked_at is None:
        artifact.revoked_at = func.now()
        session.flush()
        session.refresh(artifact)
    return artifact


def referenced_keys(session: Session) -> set[str]:
    """Every key of the artifact store that a row names and that is not revoked; anything else is an orphan."""
    keys = set(session.scalars(select(Artifact.key).where(Artifact.revoked_at.is_(None))))
    for files in session.scalars(select(Checkpoint.files)):
        keys.update(file["key"] for file in files.values())
    return keys
