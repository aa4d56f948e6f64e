"""Uploads: a delta for evaluation, or an image to learn a concept from; vetted before it is stored."""

import hashlib
import tempfile
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from expunge.api import vet_delta, vet_image
from expunge.api.auth import UNKNOWN, Caller, denied, still
from expunge.api.deps import JSON, JobsWriter, ServicesDep, Ticket, TicketDep, accepts, hashed
from expunge.api.idempotency import Done, once
from expunge.api.model_registry import known_model
from expunge.api.problems import Problem, invalid, responses
from expunge.api.routes.jobs import CREATED
from expunge.api.schemas import Artifact
from expunge.api.services import Services
from expunge.core.delta_format import LORA_FILE
from expunge.store import artifacts, audit, deployment, queue_quotas
from expunge.store.blobs import upload_key
from expunge.store.errors import StoreError

log = structlog.get_logger("api")
router = APIRouter(tags=["artifacts"], dependencies=[accepts(JSON)])
MAX_NAME = 200  # bytes of UTF-8: whoever downloads the file has to be able to keep it under its name
MEDIA_TYPES = ("application/octet-stream", "application/vnd.safetensors", "application/x-safetensors")
ALL_TYPES = (*MEDIA_TYPES, *vet_image.MEDIA_TYPES)
BODY = {
    "requestBody": {
        "required": True,
        "content": {MEDIA_TYPES[0]: {"schema": {"type": "string", "format": "binary"}}},
    }
}
ANSWERS: dict[int | str, dict[str, Any]] = {
    201: {
        "description": "Stored.",
        "headers": {name: CREATED[202]["headers"][name] for name in ("Location", "Idempotency-Replayed")},
    },
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
        "not_an_image",
        "image_unusable",
        "idempotency_mismatch",
        "quota_exceeded",
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


def pictured(path: Path) -> str | None:
    """The media type of an image by its first bytes: what a client that knows one sort of upload only sends
    as application/octet-stream.
    """
    with path.open("rb") as file:
        head = file.read(12)
    if head[:4] == b"RIFF" and head[8:] == b"WEBP":
        return "image/webp"
    return next(
        (
            kind
            for mark, kind in ((b"\x89PNG\r\n", "image/png"), (b"\xff\xd8\xff", "image/jpeg"))
            if head.startswith(mark)
        ),
        None,
    )


def check_name(name: str) -> None:
    if not name.isprintable() or not name.strip() or "/" in name or "\\" in name or name.startswith("."):
        raise invalid("query.name", "is not a file name", f"give a plain name such as {LORA_FILE}")
    if len(name.encode()) > MAX_NAME:
        raise invalid(
            "query.name",
            f"has {len(name.encode())} bytes, and file systems take 255",
            f"give a name of at most {MAX_NAME}",
        )


def keep(
    services: Services,
    caller: Caller,
    ticket: Ticket,
    path: Path,
    name: str,
    media_type: str,
    info: dict[str, Any],
) -> Done:
    """Store the bytes, then their row: no transaction waits for an upload.

    Bytes that no row names are swept later.
    """
    key, blobs = upload_key(caller.tenant_id), deployment.open_store_cached(services.settings)
    size, sha256 = blobs.put(key, path, name=name)

    def work(session: Session) -> Done:
        if not still(session, caller, "jobs:write"):  # it may have ended while the bytes came
            raise denied(UNKNOWN, ', error="invalid_token"')
        row = artifacts.add_upload(
            session,
            caller.tenant_id,
            name=name,
            media_type=media_type,
            size=size,
            sha256=sha256,
            key=key,
            info=info,
        )
        queue_quotas.check_storage(session, caller.tenant_id, services.settings)
        audit.record(
            session,
            caller.tenant_id,
            caller,
            "artifact.uploaded",
            row.id,
            media_type=media_type,
            sha256=sha256,
        )
        return Done(Artifact.model_validate(row), status=201, headers={"Location": f"/artifacts/{row.id}"})

    try:
        done = once(services, caller, ticket, Artifact, work)
    except (StoreError, Problem):  # no row: a key reused, or ended, or a quota
        blobs.delete([key])
        raise
    if done.replayed:
        blobs.delete([key])
    return done


async def vet(
    services: Services, caller: Caller, path: Path, media_type: str, model: str
) -> tuple[str, dict[str, Any]]:
    """Check a delta where it lies, or re-encode an image in place; the media type to store it under, and what
    to know of it.
    """
    if media_type in vet_image.MEDIA_TYPES:
        return vet_image.STORED, await services.decoder.run(
            caller.tenant_id, partial(vet_image.clean, path, media_type)
        )
    await services.decoder.run(
        caller.tenant_id, partial(vet_delta.check, path, services.settings.models[model], model)
    )
    return MEDIA_TYPES[0], {"model": model}


@router.post("/artifacts", status_code=201, response_model=Artifact, responses=ANSWERS, openapi_extra=BODY)
async def upload_artifact(
    request: Request,
    services: ServicesDep,
    caller: JobsWriter,
    ticket: TicketDep,
    model: Annotated[
        str, Query(max_length=100, description="The model that a delta is for; of no meaning for an image.")
    ] = "emoji",
    name: Annotated[
        str | None,
        Query(
            max_length=200,
            description=f"What to call it; omitted: {LORA_FILE}, or image.png.",
        ),
    ] = None,
) -> JSONResponse:
    """Upload a delta to have it judged, or an image to learn a concept from.

    A delta is safetensors: a LoRA as diffusers' save_lora_weights writes it, or a sparse mask as a prune job
    delivers it. An image is PNG, JPEG or WebP of at most 10 MiB and 4096 px a side, at least 32 px, not
    animated; of a JPEG that holds several pictures, as phones make them, the first is taken. It is stored as
    a PNG in sRGB (a colour profile is applied, then dropped like all metadata), turned as its EXIF
    orientation says, transparent parts on white. A job learns from the middle square of an image: crop it
    yourself where the concept stands elsewhere. Masks of images are images too: white is what is kept. The
    Content-Type is application/octet-stream for either, or image/png, image/jpeg or image/webp for an image.
    """
    media_type = request.headers.get("content-type", "").split(";")[0].strip().lower()
    media_type = vet_image.ALIASES.get(media_type, media_type)
    picture = media_type in vet_image.MEDIA_TYPES
    if not picture:
        await run_in_threadpool(known_model, services, model, "query.model")
    check_name(name or LORA_FILE)
    if media_type not in ALL_TYPES:
        raise Problem(
            "unsupported_media_type",
            f"'{media_type[:100]}' is not read. Send the bytes of the file with 'Content-Type:"
            f" {MEDIA_TYPES[0]}' for a delta, or {', '.join(vet_image.MEDIA_TYPES)} for an image.",
            headers={"Accept-Post": ", ".join(ALL_TYPES)},
        )
    with tempfile.TemporaryDirectory(prefix="expunge-upload-") as folder:
        path = Path(folder) / "upload"
        limit = (
            min(vet_image.MAX_BYTES, services.settings.max_upload_bytes)
            if picture
            else services.settings.max_upload_bytes
        )
        sha256 = await receive(request, path, limit)
        if not picture and (seen := pictured(path)) is not None:
            picture, media_type = True, seen
            if path.stat().st_size > vet_image.MAX_BYTES:
                raise Problem("payload_too_large", f"An image has at most {vet_image.MAX_BYTES} bytes.")
        name = name or ("image.png" if picture else LORA_FILE)
        stored, info = await vet(services, caller, path, media_type, model)
        marked = Ticket(ticket.key, hashed(request, sha256.encode()))
        done = await run_in_threadpool(keep, services, caller, marked, path, name, stored, info)
    log.info("artifact_uploaded", sha256=sha256, media_type=media_type)
    return done.response()
