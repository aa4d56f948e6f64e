"""Rows as clients see them, and specs as they are stored."""

import asyncio
import time
import uuid
from collections.abc import Sequence
from typing import Any

from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from api.auth import Caller
from api.problems import invalid
from api.schemas import TERMINAL, DryRun, Job, JobArtifact, JobKind
from api.services import Services
from core.specs import EraseSpec, EvaluateSpec
from store import artifacts, jobs
from store.errors import NotFound
from store.models import Artifact as ArtifactRow
from store.models import Job as JobRow


def view(row: JobRow, files: Sequence[ArtifactRow]) -> Job:
    found = Job.model_validate({name: getattr(row, name) for name in Job.model_fields if name != "artifacts"})
    return found.model_copy(update={"artifacts": [JobArtifact.model_validate(file) for file in files]})


def job(session: Session, tenant_id: uuid.UUID, row: JobRow) -> Job:
    return view(row, artifacts.of_job(session, tenant_id, row.id))


def look(services: Services, caller: Caller, job_id: uuid.UUID) -> Job:
    with services.transaction() as session:
        return job(session, caller.tenant_id, jobs.get(session, caller.tenant_id, job_id))


async def ended(services: Services, caller: Caller, job_id: uuid.UUID, deadline: float) -> Job:
    """The job once it has ended, or as it is at the deadline; holds no connection while it waits."""
    with services.hub.subscribe(str(job_id)) as bell:
        while True:
            bell.clear()
            found = await run_in_threadpool(look, services, caller, job_id)
            left = deadline - time.monotonic()
            if found.status in TERMINAL or left <= 0:
                return found
            try:
                await asyncio.wait_for(bell.wait(), min(left, services.hub.patience))
            except TimeoutError:
                continue


def resolve(session: Session, tenant_id: uuid.UUID, spec: EraseSpec | EvaluateSpec) -> dict[str, Any]:
    """The spec with every default; an evaluation's source must be there, be the tenant's, and be of the model."""
    if isinstance(spec, EvaluateSpec) and spec.job_id is not None:
        source = erased(session, tenant_id, uuid.UUID(spec.job_id))
        of_model(spec, source.spec["model"], "job")
        concepts = spec.concepts or EraseSpec.model_validate(source.spec).concepts
        spec = spec.model_copy(update={"concepts": concepts})
    elif isinstance(spec, EvaluateSpec):
        of_model(spec, uploaded(session, tenant_id, uuid.UUID(spec.artifact_id)).info["model"], "upload")
    return spec.model_dump(mode="json")


def erased(session: Session, tenant_id: uuid.UUID, job_id: uuid.UUID) -> JobRow:
    try:
        row = jobs.get(session, tenant_id, job_id)
    except NotFound as error:
        raise invalid("job_id", f"there is no job {job_id}", "GET /jobs lists yours") from error
    if row.kind != "erase" or row.status != "succeeded":
        raise invalid("job_id", f"names a job of kind {row.kind} that is {row.status}", "name an erase job that has succeeded")
    return row


def uploaded(session: Session, tenant_id: uuid.UUID, artifact_id: uuid.UUID) -> ArtifactRow:
    try:
        row = artifacts.get(session, tenant_id, artifact_id)
    except NotFound as error:
        raise invalid("artifact_id", f"there is no artifact {artifact_id}", "upload a delta with POST /artifacts") from error
    if row.job_id is not None:
        raise invalid("artifact_id", "names a job's artifact, not an upload", f"give job_id '{row.job_id}' instead")
    return row


def of_model(spec: EvaluateSpec, model: str, what: str) -> None:
    if spec.model != model:
        raise invalid("model", f"is '{spec.model}', but the {what} is of '{model}'", f"give model '{model}'")


def dry_run(services: Services, caller: Caller, kind: JobKind, spec: EraseSpec | EvaluateSpec) -> dict[str, Any]:
    with services.transaction() as session:
        return DryRun(kind=kind, spec=resolve(session, caller.tenant_id, spec)).model_dump(mode="json")
