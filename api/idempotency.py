"""A POST with an Idempotency-Key: done once, its first answer given again; all in the one transaction of the
work itself.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

from fastapi.responses import JSONResponse
from pydantic import BaseModel
from sqlalchemy.orm import Session

from expunge.api.auth import Caller
from expunge.api.deps import Ticket
from expunge.api.services import Services
from expunge.store import idempotency
from expunge.store.models import Job


@dataclass
class Done:
    """What the work answers; `job` is the row it is about, `kept` what a repeat is answered where `body`
    holds a secret.
    """

    body: BaseModel
    status: int = 202
    headers: dict[str, str] = field(default_factory=dict)
    job: Job | None = None
    replayed: bool = False
    kept: BaseModel | None = None

    def response(self) -> JSONResponse:
        extra = {"Idempotency-Replayed": "true"} if self.replayed else {}
        return JSONResponse(self.body.model_dump(mode="json"), self.status, {**self.headers, **extra})


def once(
    services: Services,
    caller: Caller,
    ticket: Ticket,
    answer: type[BaseModel],
    work: Callable[[Session], Done],
) -> Done:
    """The work's answer, or the recorded one of the first request with this key.

    Errors roll back and are not recorded.
    """
    with services.transaction() as session:
        if ticket.key is None:
            return work(session)
        lifetime = timedelta(seconds=services.settings.idempotency_seconds)
        recorded = idempotency.begin(session, caller.tenant_id, ticket.key, ticket.request_hash, lifetime)
        if recorded is not None:
            return Done(
                answer.model_validate(recorded["body"]),
                recorded["status"],
                recorded["headers"],
                replayed=True,
            )
        done = work(session)
        response = {
            "status": done.status,
            "headers": done.headers,
            "body": (done.kept or done.body).model_dump(mode="json"),
        }
        idempotency.record(
            session, caller.tenant_id, ticket.key, response=response, job_id=done.job.id if done.job else None
        )
        return done
