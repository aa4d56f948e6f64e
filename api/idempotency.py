"""Idempotency-Key: a POST is done once, and a repeat with the same key gets the first answer.

The key is recorded in the transaction of the work itself.
"""

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Annotated

from fastapi import Depends, Header, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from sqlalchemy.orm import Session

from expunge.api import root_path
from expunge.api.caller import Caller
from expunge.api.problems import bad_header
from expunge.api.services import Services
from expunge.store import idempotency
from expunge.store.models import Job

KEY = re.compile(r"^[\x21-\x7e](?:[\x20-\x7e]{0,253}[\x21-\x7e])?$")
KeyHeader = Header(
    alias="Idempotency-Key",
    description=(
        "Any unique text, for example a UUID. Requests repeated with the same key within a day are carried"
        " out once; each repeat gets the first answer."
    ),
    json_schema_extra={"minLength": 1, "maxLength": 255, "pattern": "^[\\x21-\\x7e]+( +[\\x21-\\x7e]+)*$"},
)


@dataclass(frozen=True)
class IdempotencyKey:
    """The request's key, if any, and a hash that tells a repeat from another request."""

    value: str | None
    request_hash: str


def hash_request(request: Request, content: bytes) -> str:
    """The sha256 over method, path, query and content."""
    parts = (
        request.method.encode(),
        root_path.route_path(request.scope).encode(),
        request.url.query.encode(),
        content,
    )
    return hashlib.sha256(b"\n".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()


async def idempotency_key(request: Request, key: Annotated[str | None, KeyHeader] = None) -> IdempotencyKey:
    """A route's dependency. White space and the order of the body's fields do not change the hash.

    Raises: Problem `bad_header`.
    """
    if key is not None and not KEY.match(key):
        raise bad_header("Idempotency-Key", "give 1 to 255 printable ASCII characters, for example a UUID")
    body = getattr(request.state, "body", b"")
    content = json.dumps(json.loads(body), sort_keys=True).encode() if body else b""
    return IdempotencyKey(key, hash_request(request, content))


IdempotencyKeyDep = Annotated[IdempotencyKey, Depends(idempotency_key)]


@dataclass
class Answer:
    """The answer to a POST.

    `job` is the row that it is about. `recorded` is what a repeat gets, where `body` has a secret.
    """

    body: BaseModel
    status: int = 202
    headers: dict[str, str] = field(default_factory=dict)
    job: Job | None = None
    replayed: bool = False
    recorded: BaseModel | None = None

    def response(self) -> JSONResponse:
        replayed = {"Idempotency-Replayed": "true"} if self.replayed else {}
        return JSONResponse(self.body.model_dump(mode="json"), self.status, {**self.headers, **replayed})


def answer_once(
    services: Services,
    caller: Caller,
    key: IdempotencyKey,
    body_model: type[BaseModel],
    work: Callable[[Session], Answer],
) -> Answer:
    """Carry out `work`, or return the recorded answer of the first request with this key.

    An error rolls everything back and is not recorded.
    Raises: KeyReused, KeyInFlight, and whatever `work` raises.
    """
    with services.transaction() as session:
        if key.value is None:
            return work(session)
        lifetime = timedelta(seconds=services.settings.idempotency_seconds)
        first = idempotency.begin(session, caller.tenant_id, key.value, key.request_hash, lifetime)
        if first is not None:
            body = body_model.model_validate(first["body"])
            return Answer(body, first["status"], first["headers"], replayed=True)
        answer = work(session)
        response = {
            "status": answer.status,
            "headers": answer.headers,
            "body": (answer.recorded or answer.body).model_dump(mode="json"),
        }
        job_id = answer.job.id if answer.job else None
        idempotency.record(session, caller.tenant_id, key.value, response=response, job_id=job_id)
        return answer
