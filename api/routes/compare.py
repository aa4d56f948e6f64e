"""The comparison of several jobs: as JSON, as CSV, and as a page."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, NamedTuple

from fastapi import APIRouter, Query, Response
from pydantic import ValidationError
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from expunge.api import comparison, comparison_csv, pages
from expunge.api.auth import check_scope
from expunge.api.caller import Caller
from expunge.api.deps import JSON, JobsReader, ServicesDep, accepts
from expunge.api.problems import Problem, invalid
from expunge.api.responses import Responses, problem_responses
from expunge.api.routes.artifacts import check_not_deleted, verify_bytes
from expunge.api.schemas.compare import ComparedJob, Comparison
from expunge.api.services import Services
from expunge.core.specs.fields import as_id
from expunge.store import artifacts, jobs as job_rows
from expunge.store.errors import NotFound
from expunge.store.models import Artifact as ArtifactRow, Job as JobRow
from expunge.store.statuses import JobStatus

router = APIRouter(tags=["jobs"])
CSV, HTML = "text/csv", "text/html"
KINDS = ("erase", "hide", "combine", "evaluate")
LEAST, MOST = 2, len(comparison.LETTERS)
REPORT = "report.json"
MAX_REPORT = 16 << 20  # bytes
MAX_TEXT = 1000  # characters of one `jobs`: all of the ids, with commas
TEXT = {"schema": {"type": "string"}}
ANSWERS: Responses = {
    200: {
        "description": "The comparison, in the media type that `Accept` prefers; without one, as JSON.",
        "content": {CSV: TEXT, HTML: TEXT},
        "headers": {"Vary": {"description": "`Accept`.", "schema": {"type": "string"}}},
    },
    **problem_responses("invalid_request", "artifact_expired", "artifact_corrupt"),
}


class Found(NamedTuple):
    """A job, its report.json, and the method that made what the report judges."""

    job: JobRow
    report: ArtifactRow
    method: str | None


@router.get("/compare", response_model=Comparison, responses=ANSWERS)
async def compare_jobs(
    services: ServicesDep,
    caller: JobsReader,
    media_type: Annotated[str, accepts(JSON, CSV, HTML)],
    jobs: Annotated[
        list[str],
        Query(
            min_length=1,
            max_length=MOST,
            description=f"{LEAST} to {MOST} job ids: with commas between them, or the parameter repeated.",
        ),
    ],
) -> Response:
    """Compare 2 to 16 finished jobs that erase a concept in common: what each of their reports measured.

    A figure is marked better or worse than another only where their 95 % intervals do not overlap. What makes
    the figures less comparable (another base model, other judges or pictures) stands under `differences`.
    With `Accept: text/csv` the answer has a row for each figure, safe to open in a spreadsheet; with `Accept:
    text/html` it is a page. Takes the scopes `jobs:read` and `artifacts:read`.
    """
    check_scope(caller, "artifacts:read")
    ids = parse_ids(jobs)
    found = await run_in_threadpool(find_reports, services, caller, ids)
    compared = [await read_report(services, *each) for each in zip(comparison.LETTERS, found, strict=False)]
    check_comparable(compared)
    result = await run_in_threadpool(comparison.compare, compared)
    headers = {"Vary": "Accept"}
    if media_type == CSV:
        headers["Content-Disposition"] = 'attachment; filename="compare.csv"'
        return Response(comparison_csv.to_csv(result), headers=headers, media_type=f"{CSV}; charset=utf-8")
    if media_type == HTML:
        page = pages.render_comparison(result)
        return Response(page, headers=headers, media_type=f"{HTML}; charset=utf-8")
    return Response(result.model_dump_json(), headers=headers, media_type=JSON)


def parse_ids(given: list[str]) -> list[uuid.UUID]:
    """The ids of the jobs to compare. Raises: Problem `invalid_request`."""
    found: list[uuid.UUID] = []
    for text in (each.strip() for part in given for each in part[:MAX_TEXT].split(",")):
        try:
            id_ = uuid.UUID(as_id(text))
        except ValueError as error:
            raise invalid("query.jobs", str(error)) from error
        if id_ in found:
            raise invalid("query.jobs", f"job {id_} is named twice", "name each job once")
        found.append(id_)
    if not LEAST <= len(found) <= MOST:
        plural = "" if len(found) == 1 else "s"
        raise invalid(
            "query.jobs", f"names {len(found)} job{plural}", f"name {LEAST} to {MOST} finished jobs"
        )
    return found


def find_reports(services: Services, caller: Caller, ids: list[uuid.UUID]) -> list[Found]:
    """The jobs with their reports, in order.

    Raises: Problem `invalid_request` or `artifact_expired`, naming the job.
    """
    found = []
    with services.transaction() as session:
        files = artifacts.list_of_jobs(session, caller.tenant_id, ids)
        for id_ in ids:
            try:
                row = job_rows.get(session, caller.tenant_id, id_)
            except NotFound as error:
                raise invalid("query.jobs", f"there is no job {id_}", "GET /jobs lists yours") from error
            report = report_of(row, files[id_])
            found.append(Found(row, report, method_of(session, row)))
    return found


def report_of(row: JobRow, files: list[ArtifactRow]) -> ArtifactRow:
    """A job's report.json.

    Raises: Problem `invalid_request` where the job has none, `artifact_expired` where it was deleted.
    """
    if row.kind not in KINDS or row.status != JobStatus.SUCCEEDED:
        raise invalid(
            "query.jobs",
            f"job {row.id} is of kind {row.kind} and {row.status}",
            f"name jobs of kind {', '.join(KINDS[:-1])} or {KINDS[-1]} that have succeeded",
        )
    report = next((file for file in files if file.name == REPORT), None)
    if report is None:
        raise invalid(
            "query.jobs",
            f"job {row.id} has no {REPORT}: it was not judged",
            "judge it with POST /jobs/evaluate, and name that job",
        )
    with naming(row):
        check_not_deleted(report)
    if report.size > MAX_REPORT:
        raise invalid(
            "query.jobs",
            f"the report of job {row.id} has {report.size:,} bytes, more than {MAX_REPORT:,}",
            "judge it with fewer concepts",
        )
    return report


def method_of(session: Session, row: JobRow) -> str | None:
    """The method of the job, or of the one that it judges; None where there is none, or none any more."""
    judged = row.spec.get("job_id")
    if judged is not None:
        try:
            row = job_rows.get(session, row.tenant_id, uuid.UUID(judged))
        except NotFound:
            return None
    name: str | None = row.spec.get("method", {}).get("name")
    return name


@contextmanager
def naming(row: JobRow) -> Iterator[None]:
    """A Problem of a job's report that is raised in this block says which job it is."""
    try:
        yield
    except Problem as problem:
        raise Problem(problem.kind.code, f"{REPORT} of job {row.id}: {problem.detail}") from problem


async def read_report(services: Services, name: str, found: Found) -> comparison.Judged:
    """A job as it is compared: its report is read from bytes that match their sha256.

    Raises: Problem `artifact_corrupt`; `invalid_request` where the report is not one of this release.
    """
    row, file = found.job, found.report
    with naming(row):
        await verify_bytes(services, file)
    content = await run_in_threadpool(services.blobs.read_all, file.key, file.sha256)
    try:
        report = await run_in_threadpool(comparison.ReadReport.model_validate_json, content)
    except ValidationError as error:
        raise invalid(
            "query.jobs",
            f"the report of job {row.id} is not of a form that this release reads",
            "judge it again with POST /jobs/evaluate, and name that job",
        ) from error
    shown = ComparedJob(
        name=name,
        id=row.id,
        kind=row.kind,
        method=found.method,
        model=row.spec.get("model", "emoji"),
        erased=report.erased,
        verdict=comparison.WORDS[report.verdict.passed],
        labels=row.labels,
        created_at=row.created_at,
        report_id=file.id,
        report_sha256=file.sha256,
        base_model_sha256=report.digests.get("base model"),
        delta_sha256=report.digests.get("delta"),
    )
    return comparison.Judged(shown, row.spec, report)


def check_comparable(jobs: list[comparison.Judged]) -> None:
    """Raises: Problem `invalid_request` where no concept is erased by all of the jobs."""
    if comparison.common_concepts(jobs):
        return
    each = "; ".join(f"{job.shown.id}: {', '.join(job.report.erased[:3]) or 'nothing'}" for job in jobs)
    raise invalid(
        "query.jobs",
        f"no concept is erased by all of the jobs ({each})",
        "name jobs that erase one in common",
    )
