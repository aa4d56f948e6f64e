"""Rows of stored files; the bytes are in store/blobs.py."""

import uuid
from collections.abc import Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from store.errors import NotFound
from store.models import Artifact, Checkpoint


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


def referenced_keys(session: Session) -> set[str]:
    """Every key of the artifact store that a row names; anything else is an orphan."""
    keys = set(session.scalars(select(Artifact.key)))
    for files in session.scalars(select(Checkpoint.files)):
        keys.update(file["key"] for file in files.values())
    return keys
