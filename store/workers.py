"""The rows of workers: which models each can run, and whether it takes jobs.

A worker writes its row with every heartbeat; claims, the dispatcher, health checks and metrics read them.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from sqlalchemy import case, delete, func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from expunge.store.models import Worker

READY, STARTING, SUSPENDED, LOST = "ready", "starting", "suspended", "lost"
STATES = (STARTING, READY, SUSPENDED, LOST)
REMEMBERED = timedelta(hours=1)  # how long the row of a lost worker is kept
MAX_MESSAGES = 50  # for one job
ANY = ""  # the model of a job whose spec names none
LIVE = Worker.expires_at > func.now()


@dataclass
class WorkerReport:
    """What a worker writes of itself."""

    id: uuid.UUID
    host: str
    pid: int
    version: str
    state: str = STARTING
    reason: str | None = None
    device: str | None = None
    models: list[str] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)


def record_heartbeat(session: Session, report: WorkerReport, lease: timedelta) -> None:
    """Write a worker's row, anew where it was deleted; a worker that is silent for `lease` is lost."""
    values = {**vars(report), "heartbeat_at": func.now(), "expires_at": func.now() + lease}
    session.execute(insert(Worker).values(values).on_conflict_do_update(index_elements=["id"], set_=values))


def delete_worker(session: Session, id_: uuid.UUID) -> None:
    """Delete the row of a worker that ends in good order."""
    session.execute(delete(Worker).where(Worker.id == id_))


def delete_lost(session: Session) -> None:
    """Delete the rows of workers that were lost a while ago."""
    session.execute(
        delete(Worker).where(Worker.expires_at < func.now() - REMEMBERED),
        execution_options={"synchronize_session": False},
    )


def claimable_models(session: Session, id_: uuid.UUID) -> list[str] | None:
    """Models that a worker may claim jobs for, ANY among them; None unless it is ready."""
    found = session.scalar(select(Worker.models).where(Worker.id == id_, Worker.state == READY))
    return None if found is None else [*found, ANY]


def ready_models(session: Session) -> list[str] | None:
    """Models that a ready worker has, ANY among them; empty where no worker is ready.

    None where no live worker has a row: workers of older releases write none.
    """
    rows = session.execute(select(Worker.state, Worker.models).where(LIVE)).all()
    ready = [models for state, models in rows if state == READY]
    if not rows:
        return None
    return sorted({ANY}.union(*ready)) if ready else []


def messages_per_job(session: Session) -> int:
    """How many messages wake a worker that can run the job they are for.

    One where all ready workers have the same models, else one for each, at most MAX_MESSAGES.
    """
    ready = session.scalars(select(Worker.models).where(LIVE, Worker.state == READY)).all()
    return 1 if len({frozenset(models) for models in ready}) < 2 else min(MAX_MESSAGES, len(ready))


# One look into ix_jobs_queued_model for each model that jobs wait for, however many jobs those are.
WAITED_FOR = text("""
with recursive wanted (model) as (
    (select coalesce(spec ->> 'model', '') from jobs where status = 'queued'
        order by coalesce(spec ->> 'model', '') limit 1)
    union all
    select (select coalesce(spec ->> 'model', '') from jobs where status = 'queued'
        and coalesce(spec ->> 'model', '') > wanted.model
        order by coalesce(spec ->> 'model', '') limit 1) from wanted where wanted.model is not null
)
select model from wanted where model is not null and exists (
    select from jobs where status = 'queued' and coalesce(spec ->> 'model', '') = wanted.model
        and (cast(:tenant as uuid) is null or tenant_id = :tenant)
)
""")


def blocked_models(session: Session, tenant_id: uuid.UUID | None = None) -> dict[str, str]:
    """Models that no ready worker has and queued jobs (of one tenant, or of all) wait for, with the reason.

    Empty where no live worker has a row.
    """
    found = ready_models(session)
    if found is None:
        return {}
    models = session.scalars(WAITED_FOR, {"tenant": tenant_id}).all()
    return {
        model: f"no worker has the model '{model}'" if found else "no worker is ready"
        for model in models
        if model not in found
    }


def model_status(session: Session, model: str) -> tuple[bool, str | None]:
    """Whether a live worker can run the model, and what one of the others says is wrong with it."""
    rows = session.execute(select(Worker.models, Worker.problems).where(LIVE)).all()
    problem = next((problems[model] for _, problems in rows if model in problems), None)
    return any(model in models for models, _ in rows), problem


def count_by_state(session: Session) -> dict[str, int]:
    """How many workers are in each state, those lost within the last hour too."""
    shown = case((LIVE, Worker.state), else_=LOST)
    found = {state: n for state, n in session.execute(select(shown, func.count()).group_by(shown))}
    return {state: found.get(state, 0) for state in STATES}


def list_on_host(session: Session, host: str) -> Sequence[Worker]:
    """The live workers of a host."""
    return session.scalars(select(Worker).where(LIVE, Worker.host == host).order_by(Worker.pid)).all()
