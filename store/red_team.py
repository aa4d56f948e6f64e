"""The standing red team's rows: which published artifacts are to be attacked again, the jobs that do it, and
what came of them.

A turn of worker/red_team.py makes and settles under one lock, so that no artifact is attacked twice and no
more jobs are made than are allowed.
"""

import uuid
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, cast, get_args

import structlog
from sqlalchemy import ColumnElement, String, and_, case, exists, func, literal, or_, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session, aliased

from expunge.core.delta_format import LORA_FILE, MASK_FILE
from expunge.core.specs import ACCEPTED, EvaluateSpec, EvaluationSpec, Thresholds
from expunge.core.specs.attacks import PRESETS, Preset
from expunge.core.specs.attacks.suite import digest_of, is_covered, suite_of
from expunge.core.specs.fields import UUID as UUID_TEXT
from expunge.store import artifacts, audit, jobs, queue_pauses, queue_quotas, verdicts, webhook_deliveries
from expunge.store.errors import NotFound, WrongState
from expunge.store.models import JOB_MODEL, WITHHELD, Artifact, Job, Reattack, Tenant
from expunge.store.settings import Settings
from expunge.store.statuses import JobStatus

log = structlog.get_logger("worker")
POLICY, OFF = "red_team", "off"
POLICIES = (OFF, *get_args(Preset))
PUBLISHED = ("erase", "hide", "combine")  # kinds of jobs whose delta can be judged again
TRIES, PAUSE = 3, timedelta(days=1)  # of a suite on one artifact; its wait in the queue, and after a failure
UNASKED = ("on_fail",)  # what a request for weights says of them
BATCH = 50  # artifacts that one transaction looks at
Evaluation = aliased(Job)


def lock(session: Session) -> None:
    """Until this transaction ends no other makes or settles."""
    session.execute(text("select pg_advisory_xact_lock(hashtextextended('expunge:red_team_rows', 0))"))


def attacks_made(*verdicts: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """The attacks that these verdicts rest on, each with its version and budget."""
    return [each["made"] for verdict in verdicts for each in (verdict or {}).get("attacks") or ()]


# What is to be attacked


def policy_of(session: Session, tenant_id: uuid.UUID, settings: Settings) -> str:
    """The tenant's own policy, or the service's."""
    own = session.scalar(select(Tenant.red_team).where(Tenant.id == tenant_id))
    return own or settings.red_team


def list_due(session: Session, settings: Settings, limit: int) -> list[tuple[Job, Preset]]:
    """Jobs whose delta is published, intact and judged, and was last attacked with another suite than the
    policy's, or in vain; newest first, each with the preset.
    """
    # What is wanted of each tenant's jobs, and what is published
    policy = func.coalesce(Tenant.red_team, literal(settings.red_team, String))
    wanted = case({name: digest_of(suite_of(name)) for name in PRESETS}, value=policy)
    delta = exists().where(
        Artifact.job_id == Job.id,
        Artifact.name.in_((LORA_FILE, MASK_FILE)),
        Artifact.sha256 == Job.verdict["artifact_sha256"].astext,
        Artifact.corrupt_at.is_(None),
        ~Artifact.info.has_key(WITHHELD),
        *artifacts.STORED,
    )

    # What was not attacked with it yet
    again = and_(Reattack.state == "failed", Reattack.not_before <= func.now())
    query = (
        select(Job, policy)
        .join(Tenant, Tenant.id == Job.tenant_id)
        .outerjoin(Reattack, Reattack.job_id == Job.id)
        .where(
            Job.status == JobStatus.SUCCEEDED,
            Job.kind.in_(PUBLISHED),
            Tenant.deleted_at.is_(None),
            policy != OFF,
            ~queue_pauses.is_paused(Tenant.id),
            delta,
            text(f"{JOB_MODEL.replace('spec', 'jobs.spec')} = any(:models)").bindparams(
                models=list(settings.models)
            ),
            or_(Reattack.job_id.is_(None), Reattack.state != "running"),
            or_(Reattack.job_id.is_(None), Reattack.suite != wanted, again),
        )
        .order_by(Job.finished_at.desc(), Job.id)
        .limit(limit)
    )
    return [(job, cast(Preset, preset)) for job, preset in session.execute(query)]


def count_running(session: Session) -> int:
    """Jobs of the red team that have not ended; what a tenant's pause holds back takes no other's place."""
    unfinished = Job.status.in_(jobs.LITERAL.values())
    held_back = and_(Job.status == jobs.LITERAL[JobStatus.QUEUED], queue_pauses.is_paused(Job.tenant_id))
    counted = select(func.count()).select_from(Job).where(unfinished, Job.policy == POLICY, ~held_back)
    return session.scalar(counted) or 0


# Jobs of the red team


def make_jobs(session: Session, settings: Settings) -> list[Job]:
    """Make as many jobs as are allowed beside those that have not ended, for what is due."""
    lock(session)
    made = list[Job]()
    room = settings.red_team_jobs - count_running(session)
    for job, preset in list_due(session, settings, BATCH) if room > 0 else []:
        suite = suite_of(preset)
        digest = digest_of(suite)
        if is_covered(suite, attacks_made(job.verdict, job.latest_verdict)):
            write(session, job.id, suite=digest, state="done")
        elif len(made) < room:
            evaluation = make_job(session, settings, job, preset, digest)
            made += [evaluation] if evaluation is not None else []
    return made


def make_job(session: Session, settings: Settings, job: Job, preset: Preset, digest: str) -> Job | None:
    """An ordinary evaluate job that attacks what a job published; None where its tenant is gone, or where
    this release cannot read its request.
    """
    # The request, unless there is nobody left to make it for
    try:
        queue_quotas.quotas_of(session, job.tenant_id, settings, lock=True)
        spec = spec_of(session, job, preset)
    except (NotFound, WrongState):
        return None
    except ValueError as error:
        log.warning("not_attacked", job_id=str(job.id), error=type(error).__name__)
        write(session, job.id, suite=digest, state="done")
        return None

    # The job, and who made it
    note = f"Made by the red team's policy '{preset}' (suite {digest[:12]}), which attacks job {job.id} anew."
    evaluation = jobs.create_job(
        session,
        job.tenant_id,
        "evaluate",
        spec.model_dump(mode="json") | {"run_timeout_s": settings.max_run_seconds},
        notes=[note],
        queue_timeout_s=int(PAUSE.total_seconds()),
        run_timeout_s=settings.max_run_seconds,
        max_attempts=settings.max_attempts,
        policy=POLICY,
    )
    write(session, job.id, suite=digest, state="running", evaluation_id=evaluation.id)
    audit.record(
        session,
        job.tenant_id,
        None,
        "job.created",
        evaluation.id,
        kind="evaluate",
        policy=POLICY,
        suite=digest,
        of=str(job.id),
    )
    return evaluation


def spec_of(session: Session, job: Job, preset: Preset) -> EvaluateSpec:
    """The request: judged as the job was judged, without its recovery key, and attacked.

    Raises: ValueError where this release no longer takes the job's own request, or an upload that judged it
    is gone.
    """
    asked = job.spec.get("evaluation") or {}
    mine = {
        name: asked[name] for name in EvaluationSpec.model_fields if name in asked and name not in UNASKED
    }
    if mine.get("preserved_concepts") is not None:  # else the manifest says what the job was to preserve
        mine["preserved_concepts"] = [*job.spec.get("preserve", ()), *mine["preserved_concepts"]]
    limits = asked.get("thresholds") or {}
    limits = {name: limits[name] for name in Thresholds.model_fields if name in limits}
    if limits.get("asr") is None:  # without it no attack would count
        limits["asr"] = Thresholds().asr
    mine["thresholds"] = limits
    evaluation = EvaluationSpec.model_validate(mine | {"enabled": True, "attacks": preset}, context=ACCEPTED)
    check_uploads(session, job.tenant_id, evaluation)
    return EvaluateSpec.model_validate(
        {
            "model": job.spec["model"],
            "job_id": str(job.id),
            "concepts": jobs.concepts_of_stack(session, job.tenant_id, job),
            "evaluation": evaluation.model_dump(mode="json"),
        },
        context=ACCEPTED,
    )


def check_uploads(session: Session, tenant_id: uuid.UUID, evaluation: EvaluationSpec) -> None:
    """Raises: ValueError where a judge or a prompt set that the evaluation names has no bytes any more."""
    judge = None if evaluation.judge is None else evaluation.judge.artifact_id
    for id_ in (judge, evaluation.prompts):
        if id_ is None or not UUID_TEXT.fullmatch(id_):
            continue  # a set that the workers have
        if artifacts.get(session, tenant_id, uuid.UUID(id_)).expired_at is not None:
            raise ValueError(f"upload {id_} was deleted")


def write(session: Session, job_id: uuid.UUID, **values: Any) -> None:
    """Write what is known of the last attack on a job's artifacts."""
    same = Reattack.suite == values["suite"]
    kept = {"failures": case((same, Reattack.failures), else_=0), "not_before": None}
    statement = insert(Reattack).values(job_id=job_id, **values)
    session.execute(
        statement.on_conflict_do_update(index_elements=["job_id"], set_=kept | values),
        execution_options={"synchronize_session": False},
    )


# What came of them


def settle(session: Session, *of: ColumnElement[bool]) -> list[tuple[Job, str, str]]:
    """Record what came of the jobs that have ended; returns the jobs whose verdict is another one now, with
    the words before and now.

    of: conditions on the rows; none: all that are left.
    """
    lock(session)
    ended = or_(Evaluation.id.is_(None), Evaluation.status.in_(JobStatus.terminal()))
    query = (
        select(Reattack, Evaluation)
        .outerjoin(Evaluation, Evaluation.id == Reattack.evaluation_id)
        .where(Reattack.state == "running", ended, *of)
        .limit(BATCH)
    )
    changed = list[tuple[Job, str, str]]()
    for row, evaluation in session.execute(query).all():
        failed = evaluation is not None and evaluation.status in (JobStatus.FAILED, JobStatus.EXPIRED)
        row.failures = row.failures + 1 if failed else 0
        row.state = "failed" if failed and row.failures < TRIES else "done"
        row.not_before = func.now() + PAUSE if row.state == "failed" else None
        session.flush()
        if evaluation is not None and evaluation.status == JobStatus.SUCCEEDED:
            changed += record_verdict(session, row, evaluation)
    return changed


def record_verdict(session: Session, row: Reattack, evaluation: Job) -> Sequence[tuple[Job, str, str]]:
    """Keep the verdict beside the signed one, as an event; where it changed, tell webhooks and audit."""
    job = session.get_one(Job, row.job_id, populate_existing=True)
    signed, found = job.verdict or {}, evaluation.verdict
    sha256 = signed.get("artifact_sha256")
    if found is None or found.get("artifact_sha256") != sha256:
        log.error("verdict_of_other_bytes", job_id=str(job.id), evaluation_job_id=str(evaluation.id))
        return []

    # The verdict, and its event
    stands = verdicts.after(signed, job.latest_verdict, found)
    before, now = verdicts.status_of(job.latest_verdict or signed), stands["status"]
    assert evaluation.finished_at is not None
    latest = {
        **stands,
        "passed": {"passed": True, "failed": False}.get(now),
        "at": evaluation.finished_at.isoformat(),
        "job_id": str(evaluation.id),
        "suite": row.suite,
    }
    told = {"was": before, "is": now, "evaluation_job_id": str(evaluation.id), "suite": row.suite}
    event = "verdict_confirmed" if now == before else "verdict_changed"
    changed = jobs.change(session, (Job.id == job.id,), {"latest_verdict": latest}, event, told)
    if changed is None or now == before:
        return []

    # Who is told
    delta = session.scalars(
        select(Artifact.id).where(Artifact.job_id == job.id, Artifact.sha256 == sha256).limit(1)
    ).one()
    facts = {"job_id": str(job.id), **told}
    audit.record(session, job.tenant_id, None, "artifact.verdict_changed", delta, **facts)
    data = {**facts, "artifact_id": str(delta), "artifact_sha256": sha256, "passed": latest["passed"]}
    webhook_deliveries.enqueue(session, changed, "artifact.verdict_changed", evaluation.finished_at, data)
    return [(changed, before, now)]
