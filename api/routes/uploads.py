"""Uploads: a LoRA delta for evaluation, vetted before it is stored."""

import hashlib
import tempfile
from pathlib import Path
from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from api import deltas
from api.auth import Caller
from api.deps import JSON, JobsWriter, ServicesDep, Ticket, TicketDep, accepts, hashed
from api.once import Done, once
from api.problems import Problem, invalid, responses
from api.routes.jobs import CREATED, known_model
from api.schemas import Artifact
from api.services import Services
from store import artifacts
from store.blobs import upload_key

log = structlog.get_logger("api")
router = APIRouter(tags=["artifacts"], dependencies=[accepts(JSON)])
MEDIA_TYPES = ("application/octet-stream", "application/vnd.safetensors", "application/x-safetensors")
BODY = {"requestBody": {"required": True, "content": {MEDIA_TYPES[0]: {"schema": {"type": "string", "format": "binary"}}}}}
ANSWERS: dict[int | str, dict[str, Any]] = {
    201: {"description": "Stored.", "headers": {name: CREATED[202]["headers"][name] for name in ("Location", "Idempotency-Replayed")}},
    **responses(
        "malformed_request",
        "bad_header",
        "idempotency_in_flight",
        "payload_too_large",
        "unsupported_media_type",
        "invalid_request",
        "not_safetensors",
        "delta_does_not_fit",
        "delta_not_finite",
        "idempotency_mismatch",
    ),
}


async def receive(request: Request, path: Path, limit: int) -> str:
    """Write the body to a file; its sha256."""
    digest, size = hashlib.sha256(), 0
    too_large = Problem("payload_too_large", f"An upload has at most {limit} bytes.")
    if int(request.headers.get("content-length", "0")) > limit:
        raise too_large
    try:
        with path.open("wb") as file:
            async for chunk in request.stream():
                size += len(chunk)
                if size > limit:
                    raise too_large
                digest.update(chunk)
                await run_in_threadpool(file.write, chunk)
    except ClientDisconnect as error:
        raise Problem("malformed_request", "The body ended early.") from error
    return digest.hexdigest()


def check_name(name: str) -> None:
    if not name.isprintable() or not name.strip() or "/" in name or "\\" in name or name.startswith("."):
        raise invalid("query.name", "is not a file name", "give a plain name such as pytorch_lora_weights.safetensors")


def keep(services: Services, caller: Caller, ticket: Ticket, path: Path, name: str, model: str) -> Done:
    """Store the bytes, then their row: no transaction waits for an upload. Bytes that no row names are swept later."""
    key = upload_key(caller.tenant_id)
    size, sha256 = services.blobs.put(key, path)

    def work(session: Session) -> Done:
        row = artifacts.add_upload(
            session,
            caller.tenant_id,
            name=name,
            media_type=MEDIA_TYPES[0],
            size=size,
            sha256=sha256,
            key=key,
            info={"model": model},
        )
        return Done(Artifact.model_validate(row), status=201, headers={"Location": f"/artifacts/{row.id}"})

    done = once(services, caller, ticket, Artifact, work)
    if done.replayed:
        services.blobs.delete([key])
    return done


@router.post("/artifacts", status_code=201, response_model=Artifact, responses=ANSWERS, openapi_extra=BODY)
async def upload_artifact(
    request: Request,
    services: ServicesDep,
    caller: JobsWriter,
    ticket: TicketDep,
    model: Annotated[str, Query(max_length=100, description="The model that the delta is for.")] = "emoji",
    name: Annotated[str, Query(max_length=200, description="What to call it.")] = "pytorch_lora_weights.safetensors",
) -> JSONResponse:
    """Upload a LoRA delta (safetensors, as diffusers' save_lora_weights writes it) to have it judged."""
    known_model(services, model)
    check_name(name)
    media_type = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if media_type not in MEDIA_TYPES:
        raise Problem(
            "unsupported_media_type",
            f"Send the bytes of the file with 'Content-Type: {MEDIA_TYPES[0]}'.",
            headers={"Accept-Post": ", ".join(MEDIA_TYPES)},
        )
    with tempfile.TemporaryDirectory(prefix="expunge-upload-") as folder:
        path = Path(folder) / deltas.FILE
        sha256 = await receive(request, path, services.settings.max_upload_bytes)
        await run_in_threadpool(deltas.check, path, services.settings.models[model], model)
        marked = Ticket(ticket.key, hashed(request, sha256.encode()))
        done = await run_in_threadpool(keep, services, caller, marked, path, name, model)
    log.info("artifact_uploaded", sha256=sha256, model=model)
    return done.response()
