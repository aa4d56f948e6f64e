"""The tenant's queue: its state, quotas and pause.

The operator pauses the queue of all tenants at the server: python -m expunge.store.queue_pauses.
"""

import uuid

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from sqlalchemy.orm import Session

from expunge.api.deps import JSON, Admin, JobsReader, ServicesDep, accepts
from expunge.api.idempotency import Answer, IdempotencyKeyDep, answer_once
from expunge.api.request_schemas import PauseRequest
from expunge.api.responses import IDEMPOTENT, JSON_BODY, problem_responses
from expunge.api.schemas.queue import Queue
from expunge.api.services import Services
from expunge.store import jobs, queue_pauses, queue_quotas, workers

router = APIRouter(prefix="/queue", tags=["jobs"], dependencies=[accepts(JSON)])


def read_queue(services: Services, session: Session, tenant_id: uuid.UUID) -> Queue:
    own_pause = queue_pauses.get_pause(session, tenant_id)
    service_pause = queue_pauses.get_pause(session, None)
    return Queue.model_validate(
        {
            "state": "paused" if own_pause or service_pause else "running",
            "pause": own_pause,
            "maintenance": service_pause,
            "jobs": jobs.count_active_by_status(session, tenant_id),
            "blocked": workers.blocked_models(session, tenant_id),
            "jobs_today": queue_quotas.count_jobs_today(session, tenant_id),
            "quotas": queue_quotas.quotas_of(session, tenant_id, services.settings),
        }
    )


@router.get("", responses=problem_responses())
def get_queue(services: ServicesDep, caller: JobsReader) -> Queue:
    """Get the tenant's queue: whether it is paused, how many jobs wait and run, and the quotas."""
    with services.transaction() as session:
        return read_queue(services, session, caller.tenant_id)


@router.post("/pause", response_model=Queue, responses=problem_responses(*JSON_BODY, *IDEMPOTENT))
def pause_queue(
    services: ServicesDep,
    caller: Admin,
    key: IdempotencyKeyDep,
    body: PauseRequest = PauseRequest(),  # noqa: B008
) -> JSONResponse:
    """Pause the tenant's queue: jobs are accepted, but none starts once this is answered.

    Running jobs finish. With `hand_over` they stop at their next checkpoint and continue from there after the
    pause; the attempt is not counted, and `run_timeout_s` stands still meanwhile. `queue_timeout_s` goes on,
    as it says when a start would be too late. Pausing again changes `hand_over` and `reason`.
    """

    def work(session: Session) -> Answer:
        queue_pauses.pause(session, caller.tenant_id, hand_over=body.hand_over, reason=body.reason, by=caller)
        return Answer(read_queue(services, session, caller.tenant_id), status=200)

    return answer_once(services, caller, key, Queue, work).response()


@router.post("/resume", response_model=Queue, responses=problem_responses(*IDEMPOTENT))
def resume_queue(services: ServicesDep, caller: Admin, key: IdempotencyKeyDep) -> JSONResponse:
    """End the tenant's pause.

    The operator's pause (`maintenance`) stays in force. Without a pause, nothing changes.
    """

    def work(session: Session) -> Answer:
        queue_pauses.resume(session, caller.tenant_id, by=caller)
        return Answer(read_queue(services, session, caller.tenant_id), status=200)

    return answer_once(services, caller, key, Queue, work).response()
