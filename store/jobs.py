"""Jobs as clients see them: created, listed, cancelled, retried. Attempts at them are in store/attempts.py.

Every change of a job goes through `change`: it raises `version` by one and writes the event with that seq, in
the same transaction.
"""

import uuid
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    ColumnElement,
    bindparam,
    func,
    literal,
    or_,
    select,
    text,
    tuple_,
    union_all,
    update,
)
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlalchemy.orm import Session

from expunge.store import events, webhook_deliveries
from expunge.store.errors import NotFinished, NotFound, WrongState
from expunge.store.models import WITHHELD, Artifact, Job
from expunge.store.statuses import JobStatus

# PostgreSQL uses a partial index for a prepared statement only where the status is written out in it.
LITERAL = {status: literal(status.value, literal_execute=True) for status in JobStatus.active()}


def change(
    session: Session,
    where: Sequence[ColumnElement[bool]],
    values: Mapping[str, Any],
    event: str,
    data: Mapping[str, Any] = {},
) -> Job | None:
    """Change the one job that fits `where`, and write the event of the change; None when none fits.

    `data`: what the event says beside status and attempt.
    """
    statement = update(Job).where(*where).values(**values, version=Job.version + 1).returning(Job)
    options = {"synchronize_session": False, "populate_existing": True}
    job = session.execute(statement, execution_options=options).scalar_one_or_none()
    if job is not None:
        events.append(session, job, event, {"status": job.status, "attempt": job.attempt, **data})
        if event in JobStatus.terminal():
            webhook_deliveries.enqueue_end(session, job)
    return job


def create_job(
    session: Session,
    tenant_id: uuid.UUID,
    kind: str,
    spec: dict[str, Any],
    *,
    notes: Sequence[str] = (),
    labels: dict[str, str] | None = None,
    queue_timeout_s: int | None = None,
    run_timeout_s: int | None = None,
    max_attempts: int = 3,
    retried_from: uuid.UUID | None = None,
    policy: str | None = None,
    request_id: str | None = None,
    trace: str | None = None,
) -> Job:
    """Queue a new job, with its first event."""
    job = Job(
        id=uuid.uuid4(),
        tenant_id=tenant_id,
        kind=kind,
        spec=spec,
        notes=list(notes),
        labels=labels or {},
        max_attempts=max_attempts,
        retried_from=retried_from,
        policy=policy,
        run_timeout_s=run_timeout_s,
        request_id=request_id,
        trace=trace,
    )
    if queue_timeout_s is not None:
        job.queue_deadline_at = func.now() + timedelta(seconds=queue_timeout_s)
    session.add(job)
    session.flush()
    session.refresh(job)
    events.append(session, job, "queued", {"status": JobStatus.QUEUED, "attempt": 0})
    return job


def get(session: Session, tenant_id: uuid.UUID, job_id: uuid.UUID, *, lock: bool = False) -> Job:
    """One job. `lock`: nobody deletes it before this transaction ends.

    Raises: NotFound, for another tenant's job too.
    """
    query = (
        select(Job)
        .where(Job.id == job_id, Job.tenant_id == tenant_id)
        .execution_options(populate_existing=True)
    )
    job = session.scalar(query.with_for_update(read=True) if lock else query)
    if job is None:
        raise NotFound(f"no job {job_id}")
    return job


ARTIFACT_COLUMNS = ("id", "kind", "name", "media_type", "size", "sha256")
NAMES_AND_VALUES = [
    part
    for name in ARTIFACT_COLUMNS
    for part in (literal(name, literal_execute=True), getattr(Artifact, name))
]
NAMES_AND_VALUES += [literal(WITHHELD, literal_execute=True), Artifact.info.has_key(WITHHELD)]
ARTIFACTS_AS_JSON = (
    select(
        func.coalesce(
            func.json_agg(aggregate_order_by(func.json_build_object(*NAMES_AND_VALUES), Artifact.name)),
            text("'[]'::json"),
        )
    )
    .where(Artifact.job_id == Job.id, Artifact.tenant_id == Job.tenant_id)
    .scalar_subquery()
)
JOB_WITH_ARTIFACTS = select(*Job.__table__.c, ARTIFACTS_AS_JSON.label("artifacts")).where(
    Job.id == bindparam("job_id"), Job.tenant_id == bindparam("tenant_id")
)


def get_with_artifacts(session: Session, tenant_id: uuid.UUID, job_id: uuid.UUID) -> dict[str, Any]:
    """One job's columns and, as `artifacts`, a list of its artifacts by name; in one statement.

    Raises: NotFound, for another tenant's job too.
    """
    found = session.execute(JOB_WITH_ARTIFACTS, {"job_id": job_id, "tenant_id": tenant_id})
    row = found.mappings().one_or_none()
    if row is None:
        raise NotFound(f"no job {job_id}")
    return dict(row)


def list_jobs(
    session: Session,
    tenant_id: uuid.UUID,
    *,
    kind: str | None = None,
    status: str | Sequence[str] | None = None,
    labels: Sequence[Sequence[Mapping[str, str]]] = (),
    after: tuple[datetime, uuid.UUID] | None = None,
    limit: int = 50,
) -> Sequence[Job]:
    """A tenant's jobs, newest first.

    `labels`: of each member, which is a list of labels, a job has at least one. `after`: (created_at, id) of
    the last job of the page before.
    """
    query = select(Job).where(Job.tenant_id == tenant_id)
    if kind is not None:
        query = query.where(Job.kind == kind)
    if status is not None:
        query = query.where(Job.status.in_([status] if isinstance(status, str) else status))
    for either in labels:
        query = query.where(or_(*(Job.labels.contains(dict(label)) for label in either)))
    if after is not None:
        query = query.where(tuple_(Job.created_at, Job.id) < tuple_(*after))
    return session.scalars(query.order_by(Job.created_at.desc(), Job.id.desc()).limit(limit)).all()


def cancel(session: Session, tenant_id: uuid.UUID, job_id: uuid.UUID) -> Job:
    """End a queued job at once; make a running one `cancelling`, until its worker has stopped.

    A job in any other status is returned as it is.

    Raises: NotFound.
    """
    mine = (Job.id == job_id, Job.tenant_id == tenant_id)
    now = func.now()
    job = change(
        session,
        (*mine, Job.status == JobStatus.QUEUED),
        {"status": JobStatus.CANCELLED, "cancel_requested_at": now, "finished_at": now},
        "cancelled",
    )
    if job is None:
        job = change(
            session,
            (*mine, Job.status == JobStatus.RUNNING),
            {"status": JobStatus.CANCELLING, "cancel_requested_at": now},
            "cancelling",
        )
    return job or get(session, tenant_id, job_id)


def retry(
    session: Session,
    tenant_id: uuid.UUID,
    job_id: uuid.UUID,
    *,
    max_run_s: int | None = None,
    request_id: str | None = None,
    trace: str | None = None,
) -> Job:
    """Queue a new job with the spec of one that failed, was cancelled or expired, and linked to it.

    Raises: NotFinished while that one is active, WrongState when it succeeded.
    """
    old = get(session, tenant_id, job_id)
    if old.status not in JobStatus.terminal():
        raise NotFinished(f"the job is {old.status}: cancel it first, or wait for its end")
    if old.status == JobStatus.SUCCEEDED:
        raise WrongState(
            "the job has succeeded, and only one that failed, was cancelled or expired can be retried: to"
            " repeat it, POST its spec again as a new job"
        )
    run_timeout_s = min((s for s in (old.run_timeout_s, max_run_s) if s is not None), default=None)
    return create_job(
        session,
        tenant_id,
        old.kind,
        old.spec,
        notes=old.notes,
        labels=old.labels,
        queue_timeout_s=old.spec.get("queue_timeout_s"),
        run_timeout_s=run_timeout_s,
        max_attempts=old.max_attempts,
        retried_from=old.id,
        request_id=request_id,
        trace=trace,
    )


def count_by_status(session: Session) -> dict[str, int]:
    """All tenants' jobs, for the metrics; counted in two indices, not in the table."""
    active = select(Job.status, func.count()).where(Job.status.in_(LITERAL.values())).group_by(Job.status)
    ended = select(Job.status, func.count()).where(Job.finished_at.is_not(None)).group_by(Job.status)
    found = {status: count for status, count in session.execute(union_all(active, ended))}
    return {status: found.get(status, 0) for status in JobStatus}


def queue_age(session: Session) -> float:
    """Seconds that the oldest due job has been waiting; 0 when none is due."""
    ready = (Job.status == JobStatus.QUEUED, Job.available_at <= func.now())
    age = session.scalar(select(func.extract("epoch", func.now() - func.min(Job.available_at))).where(*ready))
    return max(0.0, float(age or 0))


def count_active_by_status(session: Session, tenant_id: uuid.UUID) -> dict[str, int]:
    """A tenant's unfinished jobs."""
    query = (
        select(Job.status, func.count())
        .where(Job.tenant_id == tenant_id, Job.status.in_(LITERAL.values()))
        .group_by(Job.status)
    )
    found = {status: count for status, count in session.execute(query)}
    return {status: found.get(status, 0) for status in JobStatus.active()}


def count_active(
    session: Session, tenant_id: uuid.UUID, *, own: bool = False, at_most: int | None = None
) -> int:
    """A tenant's unfinished jobs; `own`: without those that a policy made. Counted no further than
    `at_most`.
    """
    mine = [Job.tenant_id == tenant_id, *([Job.policy.is_(None)] if own else [])]
    queued = select(Job.id).where(*mine, Job.status == LITERAL[JobStatus.QUEUED]).limit(at_most)
    leased = [LITERAL[status] for status in JobStatus.leased()]
    held = select(Job.id).where(*mine, Job.status.in_(leased)).limit(at_most)
    return session.scalar(select(func.count()).select_from(union_all(queued, held).subquery())) or 0


def find_ended(session: Session, ids: Collection[uuid.UUID]) -> set[uuid.UUID]:
    """Which of these jobs, of any tenant, have ended."""
    return set(session.scalars(select(Job.id).where(Job.id.in_(ids), Job.status.in_(JobStatus.terminal()))))


def list_stack(session: Session, tenant_id: uuid.UUID, job: Job) -> list[Job]:
    """The erase jobs whose deltas make up a job's delta, oldest first.

    They are the job and the chain of its base jobs, or the jobs that it combines.
    """
    if job.kind == "combine":
        return [get(session, tenant_id, uuid.UUID(id_)) for id_ in job.spec["jobs"]]
    base = job.spec.get("base_job_id")
    below = list_stack(session, tenant_id, get(session, tenant_id, uuid.UUID(base))) if base else []
    return [*below, job]


def concepts_of_stack(session: Session, tenant_id: uuid.UUID, job: Job) -> list[dict[str, Any]]:
    """All concepts that a job's delta erases: its own, and those of the jobs it builds on or combines."""
    members = list_stack(session, tenant_id, job)
    found = {
        fields["name"].casefold(): fields for each in members for fields in each.spec.get("concepts", [])
    }
    return list(found.values())
