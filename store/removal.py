"""What is deleted on request, or for its age.

Rows go, or say since when, in one transaction, in which their bytes are noted for deletion
(store/blob_deletions.py).
"""

import uuid
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, String, cast, delete, exists, func, or_, select, update
from sqlalchemy.orm import InstrumentedAttribute, Session, aliased

from expunge.store import audit, blob_deletions, jobs, red_team
from expunge.store.artifacts import STORED
from expunge.store.audit import Actor
from expunge.store.errors import NotFinished, WrongState
from expunge.store.jobs import LITERAL
from expunge.store.models import Artifact, ArtifactRead, Checkpoint, Event, Job, Reattack
from expunge.store.statuses import JobStatus

BATCH = 200  # rows that one transaction takes, so that none lasts long
DELETED = "deleted"  # in place of an upload's name, which may be a person's
QUIET = {"synchronize_session": False}
Later = aliased(Job)
Id = ColumnElement[uuid.UUID] | InstrumentedAttribute[uuid.UUID] | uuid.UUID


def names_id(of: type[Job], id_: Id) -> ColumnElement[bool]:
    """Condition: a job's spec holds this id, in any field."""
    return func.lower(cast(of.spec, String)).contains(cast(id_, String))


def is_active(of: type[Job]) -> ColumnElement[bool]:
    """Condition: a job has not ended."""
    return of.status.in_(LITERAL.values())


def refuse_if_needed(session: Session, tenant_id: uuid.UUID, ids: Sequence[uuid.UUID]) -> None:
    """Refuse while an unfinished job needs one of these.

    Raises: WrongState.
    """
    needed = or_(*(names_id(Job, id_) for id_ in ids))
    busy = session.scalar(select(Job.id).where(Job.tenant_id == tenant_id, is_active(Job), needed).limit(1))
    if busy is not None:
        raise WrongState(f"job {busy} needs it and has not ended: cancel that job first, or wait for its end")


def remove_artifact(session: Session, row: Artifact, by: Actor | None) -> Artifact:
    """Delete an artifact's bytes; its row stays, an upload's without name and details. May be repeated.

    Raises: WrongState while an unfinished job needs it.
    """
    session.refresh(row, with_for_update=True)
    if row.expired_at is not None or row.revoked_at is not None:
        return row
    refuse_if_needed(session, row.tenant_id, [row.id] if row.job_id is None else [row.id, row.job_id])
    row.expired_at = func.now()
    if row.job_id is None:
        row.name, row.info = DELETED, {}
    blob_deletions.schedule(session, [row.key])
    audit.record(session, row.tenant_id, by, "artifact.deleted", row.id, sha256=row.sha256)
    session.refresh(row)
    return row


def remove_job(session: Session, tenant_id: uuid.UUID, job_id: uuid.UUID, by: Actor | None) -> list[str]:
    """Delete a finished job with its events and artifacts; the audit stays.

    Returns the storage keys of the bytes, whose deletion is scheduled.

    Raises: NotFound; NotFinished; WrongState while another job builds on it or needs it.
    """
    row = jobs.get(session, tenant_id, job_id)
    if row.policy is not None:  # what it found is kept, though no turn of the red team has seen it yet
        red_team.settle(session, Reattack.evaluation_id == row.id)
    session.refresh(row, with_for_update=True)
    if row.status not in JobStatus.terminal():
        raise NotFinished(f"the job is {row.status}: cancel it first, or wait for its end")
    above = session.scalar(select(Job.id).where(Job.tenant_id == tenant_id, builds_on(Job, row.id)).limit(1))
    if above is not None:
        raise WrongState(f"job {above} builds on it: delete that job first")
    refuse_if_needed(session, tenant_id, [row.id])
    audit.record(session, tenant_id, by, "job.deleted", row.id, kind=row.kind, status=row.status)
    return delete_jobs(session, [row.id])


def builds_on(of: type[Job], id_: Id) -> ColumnElement[bool]:
    """Condition: a job's delta holds that of the job with this id, as its base or combined with others."""
    text = cast(id_, String)
    return or_(func.lower(of.spec["base_job_id"].astext) == text, of.spec["jobs"].has_key(text))


def delete_jobs(session: Session, ids: Sequence[uuid.UUID]) -> list[str]:
    """Delete these jobs and all that belongs to them; returns the storage keys whose deletion is scheduled.

    The row of a recovery key that was read stays, without its name: who read it is never forgotten.
    """
    keys = list(session.scalars(select(Artifact.key).where(Artifact.job_id.in_(ids), *STORED)))
    for files in session.scalars(select(Checkpoint.files).where(Checkpoint.job_id.in_(ids))):
        keys += [file["key"] for file in files.values()]
    blob_deletions.schedule(session, keys)
    read = exists().where(ArtifactRead.artifact_id == Artifact.id)
    scrubbed: dict[str, Any] = {
        "job_id": None,
        "name": DELETED,
        "info": {},
        "expired_at": func.coalesce(Artifact.expired_at, func.now()),
    }
    session.execute(
        update(Artifact).where(Artifact.job_id.in_(ids), read).values(**scrubbed), execution_options=QUIET
    )
    session.execute(
        update(Job).where(Job.retried_from.in_(ids)).values(retried_from=None), execution_options=QUIET
    )
    session.execute(delete(Job).where(Job.id.in_(ids)), execution_options=QUIET)
    return keys


def prune_jobs(session: Session, age: timedelta) -> int:
    """Delete a batch of jobs that ended longer ago than `age` and that no other needs; returns how many."""
    needed = exists().where(
        Later.tenant_id == Job.tenant_id,
        Later.id != Job.id,
        or_(builds_on(Later, Job.id), is_active(Later) & names_id(Later, Job.id)),
    )
    old = (
        select(Job.id)
        .where(Job.finished_at < func.now() - age, ~needed)
        .order_by(Job.finished_at)
        .limit(BATCH)
    )
    locked = session.scalars(old.with_for_update(skip_locked=True)).all()
    # Checked again: another job may have named one before it was locked
    rows = session.scalars(select(Job).where(Job.id.in_(locked), ~needed)).all()
    for row in rows:
        audit.record(
            session,
            row.tenant_id,
            None,
            "job.deleted",
            row.id,
            kind=row.kind,
            status=row.status,
            reason="age",
        )
    delete_jobs(session, [row.id for row in rows])
    return len(rows)


def prune_events(session: Session, age: timedelta) -> int:
    """Delete all events but the last of some jobs that ended longer ago than `age`; returns how many jobs."""
    more = exists().where(Event.job_id == Job.id, Event.seq < Job.version)
    old = (
        select(Job.id, Job.version)
        .where(Job.finished_at < func.now() - age, more)
        .order_by(Job.finished_at)
        .limit(BATCH)
    )
    rows = session.execute(old).all()
    for job_id, version in rows:
        session.execute(
            delete(Event).where(Event.job_id == job_id, Event.seq < version), execution_options=QUIET
        )
    return len(rows)


def expire_outputs(session: Session, age: timedelta, *, secrets: bool) -> int:
    """Delete the bytes of a batch of artifacts that jobs made longer ago than `age`; returns how many.

    `secrets`: recovery keys too.
    """
    old = [*STORED, Artifact.job_id.is_not(None), Artifact.created_at < func.now() - age]
    if not secrets:
        old.append(Artifact.kind != "recovery_key")
    return expire_artifacts(session, old)


def expire_uploads(session: Session, age: timedelta) -> int:
    """Delete the bytes of some uploads older than `age` that no unfinished job needs; returns how many."""
    needed = exists().where(Job.tenant_id == Artifact.tenant_id, is_active(Job), names_id(Job, Artifact.id))
    return expire_artifacts(
        session,
        [*STORED, Artifact.job_id.is_(None), Artifact.created_at < func.now() - age, ~needed],
        name=DELETED,
        info={},
    )


def expire_artifacts(session: Session, where: Sequence[ColumnElement[bool]], **values: object) -> int:
    """Schedule the deletion of the bytes of a batch of artifacts, and write `values` to their rows."""
    some = session.scalars(
        select(Artifact.id).where(*where).limit(BATCH).with_for_update(skip_locked=True)
    ).all()
    statement = (
        update(Artifact)
        .where(Artifact.id.in_(some), *where)
        .values(expired_at=func.now(), **values)
        .returning(Artifact.key)
    )
    keys = list(session.scalars(statement, execution_options=QUIET))
    blob_deletions.schedule(session, keys)
    return len(keys)
