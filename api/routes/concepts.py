"""Concepts: what moved between two models."""

from typing import Annotated

from fastapi import APIRouter, Body
from fastapi.responses import JSONResponse

from api import examples
from api.deps import JSON, DryRunQuery, JobsWriter, ServicesDep, TicketDep, WaitDep, accepts
from api.routes.jobs import CREATED, ENDED, create
from api.schemas import Job
from core.specs import InspectSpec

router = APIRouter(tags=["concepts"], dependencies=[accepts(JSON)])


@router.post("/inspect", status_code=202, response_model=Job, responses=ENDED | CREATED)
async def create_inspect_job(
    spec: Annotated[InspectSpec, Body(openapi_examples=examples.INSPECT)],
    services: ServicesDep,
    caller: JobsWriter,
    ticket: TicketDep,
    wait: WaitDep,
    dry_run: DryRunQuery = False,
) -> JSONResponse:
    """Rank the concepts that moved most between two models, as a job of kind `inspect`.

    Compares a finished job's model, or an uploaded delta, with the base model or with another delta (Eq. 19 of Bui's talk on erasing concepts). The job
    delivers report.json, and report.html with the ranking drawn and pictures before and after.
    """
    return await create(services, caller, ticket, "inspect", spec, dry_run, wait)
