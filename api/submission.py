"""Submit a job: check and resolve its spec, store it with its first event, announce it to the workers."""

from typing import Any

import structlog
from fastapi.responses import JSONResponse
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from expunge.api.caller import Caller
from expunge.api.idempotency import Answer, IdempotencyKey, answer_once
from expunge.api.model_registry import check_method, check_model
from expunge.api.notes import request_notes
from expunge.api.resolve import AnySpec, cropping_notes, resolve
from expunge.api.schemas.jobs import DryRun, Job, JobKind
from expunge.api.serializers import serialize_job
from expunge.api.services import Services
from expunge.api.wait import answer_when_ended
from expunge.core.specs import EraseSpec, HideSpec
from expunge.store import audit, jobs, logs, queue_quotas, tracing
from expunge.store.models import Job as JobRow

log = structlog.get_logger("api")


async def create_job(
    services: Services,
    caller: Caller,
    key: IdempotencyKey,
    kind: JobKind,
    spec: AnySpec,
    dry_run: bool,
    wait: int,
) -> JSONResponse:
    """The answer to a POST that creates a job: 202, or 200 for a dry run and for a job that ended in time."""
    # The request's own words never reach the log
    logs.hidden.set(await run_in_threadpool(logs.compile_pattern, spec.model_dump()))
    await run_in_threadpool(check_model, services, spec.model)
    if isinstance(spec, EraseSpec | HideSpec):
        await run_in_threadpool(check_method, services, spec.model, spec.method.name)
    if dry_run:
        return JSONResponse(await run_in_threadpool(check_only, services, caller, kind, spec))
    answer = await run_in_threadpool(submit, services, caller, key, kind, spec)
    return await answer_when_ended(services, caller, answer, wait)


def submit(services: Services, caller: Caller, key: IdempotencyKey, kind: JobKind, spec: AnySpec) -> Answer:
    """Store the job, its first event and the recorded answer in one transaction; then announce it.

    Raises: Problem `invalid_request`, QuotaExceeded, KeyReused, KeyInFlight.
    """
    notes = request_notes(services, spec.model, spec)

    def work(session: Session) -> Answer:
        resolved = resolve(services.settings, session, caller.tenant_id, spec)
        queue_quotas.count_job(session, caller.tenant_id, services.settings)
        job = jobs.create_job(
            session,
            caller.tenant_id,
            kind,
            resolved,
            notes=[*notes, *cropping_notes(session, caller.tenant_id, spec)],
            labels=spec.labels,
            queue_timeout_s=spec.queue_timeout_s,
            run_timeout_s=resolved["run_timeout_s"],
            max_attempts=services.settings.max_attempts,
            request_id=request_id(),
            trace=tracing.current_traceparent(),
        )
        audit.record(session, caller.tenant_id, caller, "job.created", job.id, kind=kind)
        return accepted(job)

    answer = answer_once(services, caller, key, Job, work)
    if answer.job is not None:
        services.announce(answer.job.id)
        concepts = [logs.fingerprint(services.settings, c.name) for c in getattr(spec, "concepts", [])]
        log.info("job_created", job_id=str(answer.job.id), kind=kind, model=spec.model, concepts=concepts)
    return answer


def check_only(services: Services, caller: Caller, kind: JobKind, spec: AnySpec) -> dict[str, Any]:
    """The answer to a dry run: the spec resolved and the notes; nothing is stored.

    Raises: Problem `invalid_request`.
    """
    with services.transaction() as session:
        resolved = resolve(services.settings, session, caller.tenant_id, spec, dry_run=True)
        on_images = cropping_notes(session, caller.tenant_id, spec)
    notes = [*request_notes(services, spec.model, spec), *on_images]
    return DryRun(kind=kind, spec=resolved, notes=notes).model_dump(mode="json")


def accepted(row: JobRow) -> Answer:
    """202 with the new job, its address, and when to look at it."""
    headers = {"Location": f"/jobs/{row.id}", "Retry-After": "2"}
    return Answer(serialize_job(row, ()), headers=headers, job=row)


def request_id() -> str | None:
    """The id of the current request; the worker's log names it too."""
    return structlog.contextvars.get_contextvars().get("request_id")
