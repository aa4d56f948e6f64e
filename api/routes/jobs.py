"""Jobs: ask for them, look at them, stop them, repeat them."""

import time
import uuid
from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Body, Query
from fastapi.responses import JSONResponse, Response
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from expunge.api import examples, pagination, serializers, vocabularies
from expunge.api.auth import Caller
from expunge.api.deps import (
    JSON,
    DryRunQuery,
    JobsReader,
    JobsWriter,
    ServicesDep,
    Ticket,
    TicketDep,
    WaitDep,
    accepts,
)
from expunge.api.idempotency import Done, once
from expunge.api.model_registry import known_model
from expunge.api.problems import invalid, responses
from expunge.api.schemas import DryRun, Job, JobKind, JobPage, Status
from expunge.api.services import Services
from expunge.core.specs import CombineSpec, EraseSpec, EvaluateSpec, HideSpec
from expunge.core.specs.jobs import MAX_KEY
from expunge.store import artifacts, audit, jobs, logs, queue_quotas, removal, tracing
from expunge.store.statuses import JobStatus

log = structlog.get_logger("api")
router = APIRouter(tags=["jobs"], dependencies=[accepts(JSON)])
ENDED: dict[int | str, dict[str, Any]] = {
    200: {
        "description": (
            "With `dry_run=true`: the resolved spec. With `Prefer: wait`: the job, which has ended."
        ),
        "model": Job | DryRun,
    },
}
CREATED: dict[int | str, dict[str, Any]] = {
    202: {
        "description": "Accepted; the job runs when a worker is free.",
        "headers": {
            "Location": {"description": "Where to follow the job.", "schema": {"type": "string"}},
            "Retry-After": {
                "description": "Seconds after which looking is worth while.",
                "schema": {"type": "string"},
            },
            "Idempotency-Replayed": {
                "description": "`true` when this repeats an earlier answer.",
                "schema": {"type": "string"},
            },
        },
    },
    **responses(
        "malformed_request",
        "bad_header",
        "idempotency_in_flight",
        "payload_too_large",
        "unsupported_media_type",
        "invalid_request",
        "idempotency_mismatch",
        "quota_exceeded",
    ),
}


def accepted(row: Any) -> Done:
    """202 with the job, its address and when to look."""
    return Done(
        serializers.view(row, ()), headers={"Location": f"/jobs/{row.id}", "Retry-After": "2"}, job=row
    )


def request_id() -> str | None:
    """The id that joins a job to the request that made it."""
    return structlog.contextvars.get_contextvars().get("request_id")


def submit(
    services: Services, caller: Caller, ticket: Ticket, kind: JobKind, spec: serializers.AnySpec
) -> Done:
    """Store the job, its first event and the key's answer in one transaction; then ring the bell."""
    noticed = vocabularies.notes(services, spec.model, spec)

    def work(session: Session) -> Done:
        resolved = serializers.resolve(services.settings, session, caller.tenant_id, spec)
        queue_quotas.count_job(session, caller.tenant_id, services.settings)
        job = jobs.create_job(
            session,
            caller.tenant_id,
            kind,
            resolved,
            notes=[*noticed, *serializers.cut(session, caller.tenant_id, spec)],
            labels=spec.labels,
            queue_timeout_s=spec.queue_timeout_s,
            run_timeout_s=resolved["run_timeout_s"],
            max_attempts=services.settings.max_attempts,
            request_id=request_id(),
            trace=tracing.current_traceparent(),
        )
        audit.record(session, caller.tenant_id, caller, "job.created", job.id, kind=kind)
        return accepted(job)

    done = once(services, caller, ticket, Job, work)
    if done.job is not None:
        services.ring(done.job.id)
        concepts = [logs.fingerprint(services.settings, c.name) for c in getattr(spec, "concepts", [])]
        log.info("job_created", job_id=str(done.job.id), kind=kind, model=spec.model, concepts=concepts)
    return done


async def settle(services: Services, caller: Caller, done: Done, seconds: int) -> JSONResponse:
    """The answer, held back until the job has ended or the client's patience has."""
    job = done.body
    if not seconds or not isinstance(job, Job):
        return done.response()
    if not services.seats.free(caller):  # the job is made all the same: the client looks by itself
        return done.response()
    with services.seats.take(caller):
        job = await serializers.ended(services, caller, job.id, deadline=time.monotonic() + seconds)
    done.body, done.headers = job, {**done.headers, "Preference-Applied": f"wait={seconds}"}
    if job.status in JobStatus.terminal():
        done.status = 200
        done.headers.pop("Retry-After", None)
    return done.response()


async def create(
    services: Services,
    caller: Caller,
    ticket: Ticket,
    kind: JobKind,
    spec: serializers.AnySpec,
    dry_run: bool,
    wait: int,
) -> JSONResponse:
    logs.hidden.set(await run_in_threadpool(logs.compile_pattern, spec.model_dump()))
    await run_in_threadpool(known_model, services, spec.model)
    if dry_run:
        return JSONResponse(await run_in_threadpool(serializers.dry_run, services, caller, kind, spec))
    return await settle(
        services, caller, await run_in_threadpool(submit, services, caller, ticket, kind, spec), wait
    )


@router.post("/jobs/erase", status_code=202, response_model=Job, responses=ENDED | CREATED)
async def create_erase_job(
    spec: Annotated[EraseSpec, Body(openapi_examples=examples.ERASE)],
    services: ServicesDep,
    caller: JobsWriter,
    ticket: TicketDep,
    wait: WaitDep,
    dry_run: DryRunQuery = False,
) -> JSONResponse:
    """Take concepts out of a model, turn them into others, or spread them over attributes.

    `method` is a method's name or an object with its parameters. Each of `concepts` is a name (to erase), or
    an object: with `target`, the concept becomes that (editing); with `attributes`, it is spread over them in
    the `shares` asked for (debiasing).
    """
    return await create(services, caller, ticket, "erase", spec, dry_run, wait)


@router.post("/jobs/hide", status_code=202, response_model=Job, responses=ENDED | CREATED)
async def create_hide_job(
    spec: Annotated[HideSpec, Body(openapi_examples=examples.HIDE)],
    services: ServicesDep,
    caller: JobsWriter,
    ticket: TicketDep,
    wait: WaitDep,
    dry_run: DryRunQuery = False,
) -> JSONResponse:
    """Hide concepts in a model so that a recovery key brings them back.

    KPOP (Bui et al., ICLR 2025 Delta workshop), a reconstruction: no public code was found. The job ends with
    the sanitized delta's bundle and, as an artifact of kind `recovery_key`, the key, whose content takes the
    scope `keys:read`.
    """
    return await create(services, caller, ticket, "hide", spec, dry_run, wait)


@router.post("/jobs/combine", status_code=202, response_model=Job, responses=ENDED | CREATED)
async def create_combine_job(
    spec: Annotated[CombineSpec, Body(openapi_examples=examples.COMBINE)],
    services: ServicesDep,
    caller: JobsWriter,
    ticket: TicketDep,
    wait: WaitDep,
    dry_run: DryRunQuery = False,
) -> JSONResponse:
    """Sum the deltas of several finished erase jobs into one, and judge it; a job of a stack that is left out
    is taken back out.
    """
    return await create(services, caller, ticket, "combine", spec, dry_run, wait)


@router.post("/jobs/evaluate", status_code=202, response_model=Job, responses=ENDED | CREATED)
async def create_evaluate_job(
    spec: Annotated[EvaluateSpec, Body(openapi_examples=examples.EVALUATE)],
    services: ServicesDep,
    caller: JobsWriter,
    ticket: TicketDep,
    wait: WaitDep,
    dry_run: DryRunQuery = False,
) -> JSONResponse:
    """Judge a finished job's delta, or an uploaded one."""
    return await create(services, caller, ticket, "evaluate", spec, dry_run, wait)


def label_filters(given: list[str]) -> list[list[dict[str, str]]]:
    """`label=key:value`, several of which must all hold; for each, the labels it may mean, as keys may hold
    colons too.
    """
    for text in given:
        if not text.isprintable() or ":" not in text[1 : MAX_KEY + 1]:
            raise invalid("query.label", f"'{text[:100]}' is not key:value", "write label=team:safety")
    return [
        [{text[:k]: text[k + 1 :]} for k in range(1, min(len(text), MAX_KEY + 1)) if text[k] == ":"]
        for text in given
    ]


@router.get("/jobs", responses=responses("invalid_request"))
def list_jobs(
    services: ServicesDep,
    caller: JobsReader,
    kind: Annotated[JobKind | None, Query(description="Only jobs of this kind.")] = None,
    status: Annotated[Status | None, Query(description="Only jobs in this status.")] = None,
    label: Annotated[
        list[str],
        Query(
            max_length=16,
            description="Only jobs with this label, as `key:value`; may be repeated, all must hold.",
        ),
    ] = [],  # noqa: B006
    limit: Annotated[int, Query(ge=1, le=pagination.MAX_PAGE, description="Jobs on a page.")] = 50,
    cursor: pagination.Cursor = None,
) -> JobPage:
    """List jobs, newest first."""
    after = pagination.decode(cursor)
    with services.transaction() as session:
        rows = jobs.list_jobs(
            session,
            caller.tenant_id,
            kind=kind,
            status=status,
            labels=label_filters(label),
            after=after,
            limit=limit + 1,
        )
        page, next_cursor = pagination.cut(rows, limit, lambda row: row)
        found = artifacts.list_of_jobs(session, caller.tenant_id, [row.id for row in page])
        items = [serializers.view(row, found[row.id]) for row in page]
    return JobPage(items=items, next_cursor=next_cursor)


@router.get("/jobs/{job_id:uuid}", response_model=Job, responses=responses("not_found"))
def get_job(job_id: uuid.UUID, services: ServicesDep, caller: JobsReader) -> Response:
    """Look at one job."""
    return Response(serializers.look(services, caller, job_id).model_dump_json(), media_type=JSON)


@router.delete(
    "/jobs/{job_id:uuid}",
    status_code=204,
    response_class=Response,
    responses=responses("not_found", "wrong_state"),
)
def delete_job(job_id: uuid.UUID, services: ServicesDep, caller: JobsWriter) -> Response:
    """Remove a job that has ended, with its request, events and artifacts; the audit stays.

    Refused while another job stands on it, or needs it.
    """
    with services.transaction() as session:
        keys = removal.remove_job(session, caller.tenant_id, job_id, caller)
    services.blobs.delete(keys)
    log.info("job_deleted", job_id=str(job_id), api_key_id=str(caller.key_id))
    return Response(status_code=204)


@router.post(
    "/jobs/{job_id:uuid}/cancel",
    responses=responses("bad_header", "not_found", "idempotency_in_flight", "idempotency_mismatch"),
)
def cancel_job(job_id: uuid.UUID, services: ServicesDep, caller: JobsWriter, ticket: TicketDep) -> Job:
    """Stop a job: at once when queued, at its next step when running.

    One that has ended stays as it is; twice is the same as once.
    """

    def work(session: Session) -> Done:
        before = jobs.get(session, caller.tenant_id, job_id).status
        row = jobs.cancel(session, caller.tenant_id, job_id)
        if row.status != before and row.status in (JobStatus.CANCELLING, JobStatus.CANCELLED):
            audit.record(session, caller.tenant_id, caller, "job.cancelled", row.id)
        return Done(serializers.job(session, caller.tenant_id, row), status=200, job=row)

    return once(services, caller, ticket, Job, work).response()  # type: ignore[return-value]


@router.post(
    "/jobs/{job_id:uuid}/retry",
    status_code=202,
    responses=CREATED
    | responses(
        "bad_header",
        "not_found",
        "wrong_state",
        "idempotency_in_flight",
        "idempotency_mismatch",
        "quota_exceeded",
    ),
)
def retry_job(job_id: uuid.UUID, services: ServicesDep, caller: JobsWriter, ticket: TicketDep) -> Job:
    """Run a failed, cancelled or expired job again: a new job, linked by `retried_from`.

    To repeat one that succeeded, POST its `spec` again.
    """

    def work(session: Session) -> Done:
        old = jobs.get(session, caller.tenant_id, job_id)
        known_model(services, old.spec.get("model", "emoji"))
        queue_quotas.count_job(session, caller.tenant_id, services.settings)
        most = services.settings.max_run_seconds
        row = jobs.retry(
            session,
            caller.tenant_id,
            job_id,
            max_run_s=most,
            request_id=request_id(),
            trace=tracing.current_traceparent(),
        )
        serializers.resolve_again(services.settings, session, old)
        audit.record(
            session, caller.tenant_id, caller, "job.retried", row.id, kind=row.kind, retried_from=str(job_id)
        )
        return accepted(row)

    done = once(services, caller, ticket, Job, work)
    if done.job is not None:
        services.ring(done.job.id)
    return done.response()  # type: ignore[return-value]
