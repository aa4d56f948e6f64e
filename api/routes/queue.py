"""The tenant's queue: how it stands, its quotas, and its pause.

Everybody's queue is paused at the server: python -m expunge.store.queue_pauses.
"""

import uuid

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from sqlalchemy.orm import Session

from expunge.api.deps import JSON, Admin, JobsReader, ServicesDep, TicketDep, accepts
from expunge.api.idempotency import Done, once
from expunge.api.problems import responses
from expunge.api.request_schemas import PauseRequest
from expunge.api.routes.webhooks import BODY, POSTED
from expunge.api.schemas import Queue
from expunge.api.services import Services
from expunge.store import jobs, queue_pauses, queue_quotas, workers

router = APIRouter(prefix="/queue", tags=["jobs"], dependencies=[accepts(JSON)])


def view(services: Services, session: Session, tenant_id: uuid.UUID) -> Queue:
    own, whole = queue_pauses.get_pause(session, tenant_id), queue_pauses.get_pause(session, None)
    return Queue.model_validate(
        {
            "state": "paused" if own or whole else "running",
            "pause": own,
            "maintenance": whole,
            "jobs": jobs.count_active_by_status(session, tenant_id),
            "blocked": workers.blocked_models(session, tenant_id),
            "jobs_today": queue_quotas.count_jobs_today(session, tenant_id),
            "quotas": queue_quotas.quotas_of(session, tenant_id, services.settings),
        }
    )


@router.get("", responses=responses())
def get_queue(services: ServicesDep, caller: JobsReader) -> Queue:
    """Look at the tenant's queue: whether it is paused, what waits and runs, and the quotas."""
    with services.transaction() as session:
        return view(services, session, caller.tenant_id)


@router.post("/pause", response_model=Queue, responses=responses(*BODY, *POSTED))
def pause_queue(
    services: ServicesDep,
    caller: Admin,
    ticket: TicketDep,
    body: PauseRequest = PauseRequest(),  # noqa: B008
) -> JSONResponse:
    """Pause the tenant's queue: jobs are accepted, and none starts once this is answered. Again, it changes
    `hand_over` and `reason`.

    Running jobs finish; with `hand_over` they stop at their next checkpoint and go on from there after the
    pause, their attempt not charged and their `run_timeout_s` standing still. A `queue_timeout_s` runs on: it
    is the client's word that a later start is of no use.
    """

    def work(session: Session) -> Done:
        queue_pauses.pause(session, caller.tenant_id, hand_over=body.hand_over, reason=body.reason, by=caller)
        return Done(view(services, session, caller.tenant_id), status=200)

    return once(services, caller, ticket, Queue, work).response()


@router.post(
    "/resume",
    response_model=Queue,
    responses=responses("bad_header", "idempotency_in_flight", "idempotency_mismatch"),
)
def resume_queue(services: ServicesDep, caller: Admin, ticket: TicketDep) -> JSONResponse:
    """End the tenant's pause; the service's own (`maintenance`) stays. Without a pause, nothing changes."""

    def work(session: Session) -> Done:
        queue_pauses.resume(session, caller.tenant_id, by=caller)
        return Done(view(services, session, caller.tenant_id), status=200)

    return once(services, caller, ticket, Queue, work).response()
