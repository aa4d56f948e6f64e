"""Jobs: create, list, read, delete, cancel and retry them."""

import uuid
from typing import Annotated

import structlog
from fastapi import APIRouter, Body, Query
from fastapi.responses import JSONResponse, Response
from sqlalchemy.orm import Session

from expunge.api import examples, pagination
from expunge.api.deps import JSON, DryRunQuery, JobsReader, JobsWriter, ServicesDep, WaitDep, accepts
from expunge.api.idempotency import Answer, IdempotencyKeyDep, answer_once
from expunge.api.model_registry import check_model
from expunge.api.problems import invalid
from expunge.api.resolve import resolve_again
from expunge.api.responses import DRY_RUN_OR_ENDED, IDEMPOTENT, JOB_ACCEPTED, problem_responses
from expunge.api.schemas.jobs import Job, JobKind, JobPage, Status
from expunge.api.serializers import job_with_artifacts, read_job, serialize_job
from expunge.api.submission import accepted, create_job, request_id
from expunge.core.specs import CombineSpec, EraseSpec, EvaluateSpec, HideSpec
from expunge.core.specs.jobs import MAX_KEY
from expunge.store import artifacts, audit, jobs, queue_quotas, removal, tracing
from expunge.store.statuses import JobStatus

log = structlog.get_logger("api")
router = APIRouter(tags=["jobs"], dependencies=[accepts(JSON)])


@router.post("/jobs/erase", status_code=202, response_model=Job, responses=DRY_RUN_OR_ENDED | JOB_ACCEPTED)
async def create_erase_job(
    spec: Annotated[EraseSpec, Body(openapi_examples=examples.ERASE)],
    services: ServicesDep,
    caller: JobsWriter,
    key: IdempotencyKeyDep,
    wait: WaitDep,
    dry_run: DryRunQuery = False,
) -> JSONResponse:
    """Erase concepts from a model, turn them into others, or spread them over attributes.

    `method` is a method's name, or an object with its parameters. Each of `concepts` is a name, which is
    erased, or an object: with `target`, the concept becomes that (editing); with `attributes`, it is spread
    over them in the given `shares` (debiasing).
    """
    return await create_job(services, caller, key, "erase", spec, dry_run, wait)


@router.post("/jobs/hide", status_code=202, response_model=Job, responses=DRY_RUN_OR_ENDED | JOB_ACCEPTED)
async def create_hide_job(
    spec: Annotated[HideSpec, Body(openapi_examples=examples.HIDE)],
    services: ServicesDep,
    caller: JobsWriter,
    key: IdempotencyKeyDep,
    wait: WaitDep,
    dry_run: DryRunQuery = False,
) -> JSONResponse:
    """Hide concepts in a model, so that a recovery key brings them back.

    KPOP (Bui et al., ICLR 2025 Delta workshop), reimplemented from the paper, as no public code was found.
    The job delivers the sanitized delta's bundle and, as an artifact of kind `recovery_key`, the key, which
    takes the scope `keys:read` to download.
    """
    return await create_job(services, caller, key, "hide", spec, dry_run, wait)


@router.post("/jobs/combine", status_code=202, response_model=Job, responses=DRY_RUN_OR_ENDED | JOB_ACCEPTED)
async def create_combine_job(
    spec: Annotated[CombineSpec, Body(openapi_examples=examples.COMBINE)],
    services: ServicesDep,
    caller: JobsWriter,
    key: IdempotencyKeyDep,
    wait: WaitDep,
    dry_run: DryRunQuery = False,
) -> JSONResponse:
    """Add the deltas of several finished erase jobs into one, and judge it.

    To undo one job of a stack, combine the others.
    """
    return await create_job(services, caller, key, "combine", spec, dry_run, wait)


@router.post("/jobs/evaluate", status_code=202, response_model=Job, responses=DRY_RUN_OR_ENDED | JOB_ACCEPTED)
async def create_evaluate_job(
    spec: Annotated[EvaluateSpec, Body(openapi_examples=examples.EVALUATE)],
    services: ServicesDep,
    caller: JobsWriter,
    key: IdempotencyKeyDep,
    wait: WaitDep,
    dry_run: DryRunQuery = False,
) -> JSONResponse:
    """Judge the delta of a finished job, or an uploaded one."""
    return await create_job(services, caller, key, "evaluate", spec, dry_run, wait)


def label_filters(given: list[str]) -> list[list[dict[str, str]]]:
    """The filters for `label=key:value`: all must match, each by one of its alternatives.

    There are alternatives because keys and values may contain colons.
    Raises: Problem `invalid_request`.
    """
    filters = []
    for text in given:
        if not text.isprintable() or ":" not in text[1 : MAX_KEY + 1]:
            raise invalid("query.label", f"'{text[:100]}' is not key:value", "write label=team:safety")
        colons = [i for i in range(1, min(len(text), MAX_KEY + 1)) if text[i] == ":"]
        filters.append([{text[:i]: text[i + 1 :]} for i in colons])
    return filters


@router.get("/jobs", responses=problem_responses("invalid_request"))
def list_jobs(
    services: ServicesDep,
    caller: JobsReader,
    kind: Annotated[JobKind | None, Query(description="Only jobs of this kind.")] = None,
    status: Annotated[Status | None, Query(description="Only jobs with this status.")] = None,
    label: Annotated[
        list[str],
        Query(
            max_length=16,
            description="Only jobs with this label, as `key:value`. May be repeated; all must match.",
        ),
    ] = [],  # noqa: B006
    limit: Annotated[int, Query(ge=1, le=pagination.MAX_PAGE, description="Jobs per page.")] = 50,
    cursor: pagination.Cursor = None,
) -> JobPage:
    """List jobs, newest first."""
    after = pagination.decode_cursor(cursor)
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
        page, next_cursor = pagination.split_page(rows, limit, lambda row: row)
        files = artifacts.list_of_jobs(session, caller.tenant_id, [row.id for row in page])
        items = [serialize_job(row, files[row.id]) for row in page]
    return JobPage(items=items, next_cursor=next_cursor)


@router.get("/jobs/{job_id:uuid}", response_model=Job, responses=problem_responses("not_found"))
def get_job(job_id: uuid.UUID, services: ServicesDep, caller: JobsReader) -> Response:
    """Get one job."""
    return Response(read_job(services, caller, job_id).model_dump_json(), media_type=JSON)


@router.delete(
    "/jobs/{job_id:uuid}",
    status_code=204,
    response_class=Response,
    responses=problem_responses("not_found", "wrong_state"),
)
def delete_job(job_id: uuid.UUID, services: ServicesDep, caller: JobsWriter) -> Response:
    """Delete a job that has ended, with its request, events and artifacts.

    Its entries in the audit trail stay. Refused while another job builds on it, or needs it.
    """
    with services.transaction() as session:
        keys = removal.remove_job(session, caller.tenant_id, job_id, caller)
    services.blobs.delete(keys)
    log.info("job_deleted", job_id=str(job_id), api_key_id=str(caller.key_id))
    return Response(status_code=204)


@router.post("/jobs/{job_id:uuid}/cancel", responses=problem_responses("not_found", *IDEMPOTENT))
def cancel_job(job_id: uuid.UUID, services: ServicesDep, caller: JobsWriter, key: IdempotencyKeyDep) -> Job:
    """Cancel a job: at once while it is queued, at its next step while it runs.

    A job that has ended stays as it is. Cancelling again changes nothing.
    """

    def work(session: Session) -> Answer:
        before = jobs.get(session, caller.tenant_id, job_id).status
        row = jobs.cancel(session, caller.tenant_id, job_id)
        if row.status != before and row.status in (JobStatus.CANCELLING, JobStatus.CANCELLED):
            audit.record(session, caller.tenant_id, caller, "job.cancelled", row.id)
        return Answer(job_with_artifacts(session, caller.tenant_id, row), status=200, job=row)

    return answer_once(services, caller, key, Job, work).response()  # type: ignore[return-value]


@router.post(
    "/jobs/{job_id:uuid}/retry",
    status_code=202,
    responses=JOB_ACCEPTED | problem_responses("not_found", "wrong_state", *IDEMPOTENT, "quota_exceeded"),
)
def retry_job(job_id: uuid.UUID, services: ServicesDep, caller: JobsWriter, key: IdempotencyKeyDep) -> Job:
    """Run a failed, cancelled or expired job again, as a new job that names it in `retried_from`.

    To repeat a job that succeeded, POST its `spec` again.
    """

    def work(session: Session) -> Answer:
        old = jobs.get(session, caller.tenant_id, job_id)
        check_model(services, old.spec.get("model", "emoji"))
        queue_quotas.count_job(session, caller.tenant_id, services.settings)
        row = jobs.retry(
            session,
            caller.tenant_id,
            job_id,
            max_run_s=services.settings.max_run_seconds,
            request_id=request_id(),
            trace=tracing.current_traceparent(),
        )
        resolve_again(services.settings, session, old)
        audit.record(
            session, caller.tenant_id, caller, "job.retried", row.id, kind=row.kind, retried_from=str(job_id)
        )
        return accepted(row)

    answer = answer_once(services, caller, key, Job, work)
    if answer.job is not None:
        services.announce(answer.job.id)
    return answer.response()  # type: ignore[return-value]
