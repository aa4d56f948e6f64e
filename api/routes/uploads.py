"""Uploads: a delta or a judge to evaluate with, an image to learn from, or a prompt set to judge on.

They are checked before they are stored.
"""

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

from expunge.api import prompt_sets, vet_delta, vet_image, vet_judge
from expunge.api.auth import key_still_valid, unknown_key
from expunge.api.caller import Caller
from expunge.api.deps import JSON, JobsWriter, ServicesDep, accepts
from expunge.api.idempotency import (
    Answer,
    IdempotencyKey,
    IdempotencyKeyDep,
    answer_once,
    hash_request,
)
from expunge.api.model_registry import check_model
from expunge.api.problems import Problem, invalid
from expunge.api.responses import CREATED, IDEMPOTENT, JSON_BODY, Responses, problem_responses
from expunge.api.schemas.artifacts import Artifact
from expunge.api.services import Services
from expunge.core.delta_format import LORA_FILE
from expunge.core.specs.prompt_sets import MAX_BYTES as MAX_PROMPT_SET
from expunge.store import artifacts, audit, deployment, queue_quotas
from expunge.store.blobs import upload_key
from expunge.store.errors import StoreError

log = structlog.get_logger("api")
router = APIRouter(tags=["artifacts"], dependencies=[accepts(JSON)])
MAX_NAME = 200  # bytes of UTF-8, so that whoever downloads the file can store it under its name
MEDIA_TYPES = ("application/octet-stream", "application/vnd.safetensors", "application/x-safetensors")
ALL_TYPES = (*MEDIA_TYPES, *vet_image.MEDIA_TYPES, *prompt_sets.MEDIA_TYPES)
ALIASES = vet_image.ALIASES | prompt_sets.ALIASES
NAMES = {"image/png": "image.png", "text/csv": "prompts.csv", "application/jsonl": "prompts.jsonl"}
BODY = {
    "requestBody": {
        "required": True,
        "content": {MEDIA_TYPES[0]: {"schema": {"type": "string", "format": "binary"}}},
    }
}
ANSWERS: Responses = CREATED | problem_responses(
    *JSON_BODY,
    "not_safetensors",
    "delta_does_not_fit",
    "delta_not_finite",
    "bad_judge",
    "not_an_image",
    "image_unusable",
    "prompt_set_unusable",
    *IDEMPOTENT,
    "quota_exceeded",
)


async def receive(request: Request, path: Path, limit: int) -> str:
    """Write the body to a file; returns its sha256.

    Raises: Problem `payload_too_large`; `malformed_request` where the client disconnected.
    """
    digest, size = hashlib.sha256(), 0
    too_large = Problem("payload_too_large", f"An upload may have at most {limit} bytes.")
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


def image_media_type(path: Path) -> str | None:
    """The media type of an image by its first bytes; None for anything else.

    Some clients send every upload as application/octet-stream.
    """
    with path.open("rb") as file:
        head = file.read(12)
    if head[:4] == b"RIFF" and head[8:] == b"WEBP":
        return "image/webp"
    if head.startswith(b"\x89PNG\r\n"):
        return "image/png"
    if head.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    return None


def check_name(name: str) -> None:
    """Raises: Problem `invalid_request` for a name that is not a plain file name."""
    if not name.isprintable() or not name.strip() or "/" in name or "\\" in name or name.startswith("."):
        raise invalid("query.name", "is not a file name", f"give a plain name such as {LORA_FILE}")
    if len(name.encode()) > MAX_NAME:
        raise invalid(
            "query.name",
            f"has {len(name.encode())} bytes, which some file systems cannot store",
            f"give a name of at most {MAX_NAME} bytes",
        )


def store_upload(
    services: Services,
    caller: Caller,
    idempotency_key: IdempotencyKey,
    path: Path,
    name: str,
    media_type: str,
    info: dict[str, Any],
) -> Answer:
    """Store the bytes, then their row, so that no transaction is open while bytes are stored.

    Bytes without a row are deleted later by the sweeper.
    Raises: Problem `unauthorized`, QuotaExceeded, KeyReused, KeyInFlight.
    """
    key, blobs = upload_key(caller.tenant_id), deployment.open_store_cached(services.settings)
    size, sha256 = blobs.put(key, path, name=name)

    def work(session: Session) -> Answer:
        if not key_still_valid(session, caller, "jobs:write"):  # it may have ended during the upload
            raise unknown_key()
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
        headers = {"Location": f"/artifacts/{row.id}"}
        return Answer(Artifact.model_validate(row), status=201, headers=headers)

    try:
        answer = answer_once(services, caller, idempotency_key, Artifact, work)
    except (StoreError, Problem):  # there is no row: the key was reused or has ended, or a quota is used up
        blobs.delete([key])
        raise
    if answer.replayed:
        blobs.delete([key])
    return answer


async def check_upload(
    services: Services, caller: Caller, path: Path, media_type: str, model: str
) -> tuple[str, dict[str, Any]]:
    """Check a delta, a judge or a prompt set, or check an image and re-encode it in place.

    Returns the media type to store it under, and the facts to store with it.
    Raises: a Problem that says what is wrong with the upload.
    """
    run = services.vetting_thread.run
    if media_type in vet_image.MEDIA_TYPES:
        facts = await run(caller.tenant_id, partial(vet_image.check_and_reencode, path, media_type))
        return vet_image.STORED, facts
    if media_type in prompt_sets.MEDIA_TYPES:
        return await run(caller.tenant_id, partial(prompt_sets.check, path))
    if await run(caller.tenant_id, partial(vet_judge.is_judge_file, path)):
        return MEDIA_TYPES[0], await run(caller.tenant_id, partial(vet_judge.check, path))
    source = services.settings.models[model]
    await run(caller.tenant_id, partial(vet_delta.check, path, source, model))
    return MEDIA_TYPES[0], {"model": model}


@router.post("/artifacts", status_code=201, response_model=Artifact, responses=ANSWERS, openapi_extra=BODY)
async def upload_artifact(
    request: Request,
    services: ServicesDep,
    caller: JobsWriter,
    key: IdempotencyKeyDep,
    model: Annotated[
        str, Query(max_length=100, description="The model that a delta is for; ignored for other files.")
    ] = "emoji",
    name: Annotated[
        str | None,
        Query(
            max_length=200,
            description=f"Its file name; omitted: {LORA_FILE}, image.png, or prompts.csv or .jsonl.",
        ),
    ] = None,
) -> JSONResponse:
    """Upload a delta to have it judged, an image to learn a concept from, a judge, or a prompt set.

    A delta is a safetensors file: a LoRA as diffusers' save_lora_weights writes it, or a sparse mask as a
    prune job delivers it. A judge is a timm classifier or an open_clip model in one safetensors file, as
    `expunge pack-judge` makes it of a folder; a job names it as evaluation.judge.artifact_id. An image is a
    PNG, JPEG or WebP file of at most 10 MiB, with sides of 32 to 4096 px, not animated; of a JPEG with
    several pictures, as phones make them, the first is used. It is stored as a PNG in sRGB: a colour profile
    is applied and then removed like all metadata, the EXIF orientation is applied, and transparent parts
    become white. A job learns from the middle square of an image, so crop it first if the concept is
    elsewhere. Masks are images too: white is what to keep. The Content-Type is application/octet-stream for
    all of them, or image/png, image/jpeg or image/webp for an image.

    A prompt set has the Content-Type text/csv, with a header, or application/jsonl, with an object on each
    line; at most 5,000 rows and 8 MiB of UTF-8. Columns, as in I2P: prompt; seed (or sd_seed,
    evaluation_seed); guidance (guidance_scale, sd_guidance_scale, evaluation_guidance); categories; width and
    height. All but the prompt may be left out; others are not read. Each bad row is reported by its line.
    """
    # What the request says of the upload
    media_type = request.headers.get("content-type", "").split(";")[0].strip().lower()
    media_type = ALIASES.get(media_type, media_type)
    is_image, is_set = media_type in vet_image.MEDIA_TYPES, media_type in prompt_sets.MEDIA_TYPES
    if not (is_image or is_set):
        await run_in_threadpool(check_model, services, model, "query.model")
    check_name(name or LORA_FILE)
    if media_type not in ALL_TYPES:
        raise Problem(
            "unsupported_media_type",
            f"'{media_type[:100]}' is not supported. Send the bytes of the file with 'Content-Type:"
            f" {MEDIA_TYPES[0]}' for a delta or a judge, {', '.join(vet_image.MEDIA_TYPES)} for an image, or"
            f" {' or '.join(prompt_sets.MEDIA_TYPES)} for a prompt set.",
            headers={"Accept-Post": ", ".join(ALL_TYPES)},
        )
    limit = services.settings.max_upload_bytes
    if is_image:
        limit = min(limit, vet_image.MAX_BYTES)
    elif is_set:
        limit = min(limit, MAX_PROMPT_SET)

    # Receive, check and store the bytes
    with tempfile.TemporaryDirectory(prefix="expunge-upload-") as folder:
        path = Path(folder) / "upload"
        sha256 = await receive(request, path, limit)
        if not (is_image or is_set) and (found := image_media_type(path)) is not None:
            is_image, media_type = True, found
            if path.stat().st_size > vet_image.MAX_BYTES:
                raise Problem("payload_too_large", f"An image may have at most {vet_image.MAX_BYTES} bytes.")
        stored_type, facts = await check_upload(services, caller, path, media_type, model)
        name = name or NAMES.get(stored_type, LORA_FILE)
        # The body was not in memory when the dependency hashed the request: hash its digest instead
        key = IdempotencyKey(key.value, hash_request(request, sha256.encode()))
        answer = await run_in_threadpool(store_upload, services, caller, key, path, name, stored_type, facts)
    log.info("artifact_uploaded", sha256=sha256, media_type=media_type)
    return answer.response()
