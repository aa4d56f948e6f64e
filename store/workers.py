"""Workers as their rows tell of them.

A worker writes its own row with every heartbeat; claims, the dispatcher, health and metrics read them.
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
REMEMBERED = timedelta(hours=1)  # how long a lost worker is still told of
MOST = 50
ANY = ""  # the model of a job whose spec names none
LIVE = Worker.expires_at > func.now()


@dataclass
class WorkerReport:
    """What a worker says of itself."""

    id: uuid.UUID
    host: str
    pid: int
    version: str
    state: str = STARTING
    reason: str | None = None
    device: str | None = None
    models: list[str] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)


def record_heartbeat(session: Session, standing: WorkerReport, lease: timedelta) -> None:
    """Write the row, made anew where it is gone; what is silent for `lease` is lost."""
    told = {**vars(standing), "heartbeat_at": func.now(), "expires_at": func.now() + lease}
    session.execute(insert(Worker).values(told).on_conflict_do_update(index_elements=["id"], set_=told))


def delete_worker(session: Session, id_: uuid.UUID) -> None:
    """The worker ends in good order: its row goes."""
    session.execute(delete(Worker).where(Worker.id == id_))


def delete_lost(session: Session) -> None:
    """Drop the rows of workers that were lost a while ago."""
    session.execute(
        delete(Worker).where(Worker.expires_at < func.now() - REMEMBERED),
        execution_options={"synchronize_session": False},
    )


def claimable_models(session: Session, id_: uuid.UUID) -> list[str] | None:
    """What a worker may claim jobs for, ANY among them; None unless it is ready."""
    found = session.scalar(select(Worker.models).where(Worker.id == id_, Worker.state == READY))
    return None if found is None else [*found, ANY]


def ready_models(session: Session) -> list[str] | None:
    """Models that some ready worker has, ANY among them where one is ready; None where no worker has a row
    at all, as before the release that has them.
    """
    rows = session.execute(select(Worker.state, Worker.models).where(LIVE)).all()
    ready = [models for state, models in rows if state == READY]
    return (
        None if not rows else sorted({ANY, *(model for models in ready for model in models)}) if ready else []
    )


def messages_per_job(session: Session) -> int:
    """How many messages make sure that a worker hears of a job which it can run: where models differ, as many
    as there are workers to wake, up to MOST.
    """
    ready = session.scalars(select(Worker.models).where(LIVE, Worker.state == READY)).all()
    return 1 if len({frozenset(models) for models in ready}) < 2 else min(MOST, len(ready))


# One look into ix_jobs_queued_model for each model that jobs wait for, however many those are.
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
    """Models that queued jobs, of one tenant or of all, wait for in vain, and why; empty where nothing is
    known of workers.
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
    """(whether a worker that lives can run the model, else what one of them says is wrong with it)."""
    rows = session.execute(select(Worker.models, Worker.problems).where(LIVE)).all()
    told = next((problems[model] for _, problems in rows if model in problems), None)
    return any(model in models for models, _ in rows), told


def count_by_state(session: Session) -> dict[str, int]:
    """All workers, those lost within the last hour too."""
    shown = case((LIVE, Worker.state), else_=LOST)
    found = {state: n for state, n in session.execute(select(shown, func.count()).group_by(shown))}
    return {state: found.get(state, 0) for state in STATES}


def list_on_host(session: Session, host: str) -> Sequence[Worker]:
    """The workers of a host that live."""
    return session.scalars(select(Worker).where(LIVE, Worker.host == host).order_by(Worker.pid)).all()
