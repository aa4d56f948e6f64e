"""Artifacts: their facts, and their bytes."""

import base64
import uuid
from datetime import timedelta
from functools import partial
from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Query, Request, Response
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse

from expunge.api import pagination, ranges, signed_urls
from expunge.api.auth import Caller, require, still
from expunge.api.deps import JSON, Admin, Anyone, ArtifactsReader, ServicesDep, acceptable, accepts
from expunge.api.middleware.sendfile import FileResponse, while_alive
from expunge.api.problems import Problem, responses
from expunge.api.schemas import (
    ApiKeyName,
    Artifact,
    ArtifactLink,
    ArtifactList,
    ArtifactPage,
    ArtifactRead,
    ArtifactReadPage,
    LinkSpec,
)
from expunge.api.services import Services
from expunge.store import artifacts, audit, jobs, removal
from expunge.store.blobs import attachment
from expunge.store.errors import NotFound
from expunge.store.models import Artifact as ArtifactRow

log = structlog.get_logger("api")
router = APIRouter(tags=["artifacts"])
LASTING = LinkSpec()
BINARY = {"schema": {"type": "string", "format": "binary"}}
CONTENT: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The bytes, as attachment; `ETag` is their sha256, so is `Repr-Digest`.",
        "content": {"application/octet-stream": BINARY},
    },
    206: {"description": "The range asked for.", "content": {"application/octet-stream": BINARY}},
    304: {"description": "The copy with the ETag in If-None-Match is current."},
    **responses(
        "link_expired",
        "not_found",
        "recovery_key_revoked",
        "artifact_expired",
        "range_not_satisfiable",
        "artifact_corrupt",
    ),
}


@router.get("/jobs/{job_id:uuid}/artifacts", responses=responses("not_found"), dependencies=[accepts(JSON)])
def list_job_artifacts(job_id: uuid.UUID, services: ServicesDep, caller: ArtifactsReader) -> ArtifactList:
    """List what a job made."""
    with services.transaction() as session:
        jobs.get(session, caller.tenant_id, job_id)
        return ArtifactList(
            items=[
                Artifact.model_validate(row)
                for row in artifacts.list_of_job(session, caller.tenant_id, job_id)
            ]
        )


@router.get("/artifacts", responses=responses("invalid_request"), dependencies=[accepts(JSON)])
def list_uploads(
    services: ServicesDep,
    caller: ArtifactsReader,
    media_type: Annotated[
        str | None,
        Query(
            max_length=100,
            pattern="^[a-z]+/[a-z0-9][a-z0-9.+-]*$",
            description="Only uploads stored as this, for example image/png.",
        ),
    ] = None,
    limit: Annotated[int, Query(ge=1, le=pagination.MAX_PAGE, description="Uploads on a page.")] = 50,
    cursor: pagination.Cursor = None,
) -> ArtifactPage:
    """List uploads that are not deleted, newest first. What a job made is at /jobs/{id}/artifacts."""
    after = pagination.decode(cursor)
    with services.transaction() as session:
        rows = artifacts.list_uploads(
            session, caller.tenant_id, media_type=media_type, after=after, limit=limit + 1
        )
        page, next_cursor = pagination.cut(rows, limit, lambda row: row)
        return ArtifactPage(items=[Artifact.model_validate(row) for row in page], next_cursor=next_cursor)


@router.get("/artifacts/{artifact_id:uuid}", responses=responses("not_found"), dependencies=[accepts(JSON)])
def get_artifact(artifact_id: uuid.UUID, services: ServicesDep, caller: ArtifactsReader) -> Artifact:
    """Look at an artifact's name, size and digest."""
    with services.transaction() as session:
        return Artifact.model_validate(artifacts.get(session, caller.tenant_id, artifact_id))


def described(row: ArtifactRow) -> dict[str, str]:
    """The headers of a download."""
    digest = base64.b64encode(bytes.fromhex(row.sha256)).decode()
    return {
        "ETag": f'"{row.sha256}"',
        "Repr-Digest": f"sha-256=:{digest}:",
        "Accept-Ranges": "bytes",
        "Content-Disposition": attachment(row.name),
        "Cache-Control": "private, no-cache",
    }


def there(row: ArtifactRow) -> None:
    """410 when the bytes were deleted on purpose."""
    if row.revoked_at is not None:
        raise Problem(
            "recovery_key_revoked",
            f"The recovery key was revoked at {row.revoked_at:%Y-%m-%d %H:%M:%S} UTC and its bytes are"
            " deleted.",
        )
    if row.expired_at is not None:
        raise Problem(
            "artifact_expired",
            f"The bytes of '{row.name}' were deleted at {row.expired_at:%Y-%m-%d %H:%M:%S} UTC, on request or"
            " at the age set by the operator.",
        )


async def check(services: Services, row: ArtifactRow) -> None:
    """Hash the stored bytes before any of them leaves; what is damaged is refused, and flagged for the
    operator.
    """
    try:
        await services.checked.check(services.blobs, row)
    except Problem:
        services.metrics.corrupt.inc()
        log.error("artifact_corrupt", artifact_id=str(row.id), key=row.key)
        await run_in_threadpool(flag, services, row)
        raise


def flag(services: Services, row: ArtifactRow) -> None:
    with services.transaction() as session:
        artifacts.record_check(session, row.id, whole=False)


def find(services: Services, caller: Caller, artifact_id: uuid.UUID) -> ArtifactRow:
    with services.transaction() as session:
        return artifacts.get(session, caller.tenant_id, artifact_id)


def lives(services: Services, caller: Caller, scope: str) -> bool:
    with services.reading() as session:
        return still(session, caller, scope)


@router.get("/artifacts/{artifact_id:uuid}/content", response_class=Response, responses=CONTENT)
async def download_artifact(
    request: Request, artifact_id: uuid.UUID, services: ServicesDep, caller: Anyone
) -> Response:
    """Download an artifact: whole, or a range of its bytes.

    Takes the scope `artifacts:read`; for a recovery key `keys:read` instead, and the read is noted before the
    first byte is sent. A long download is broken off when its API key ends.
    """
    try:
        row = await run_in_threadpool(find, services, caller, artifact_id)
    except NotFound:
        require(caller, "artifacts:read")  # the scope comes before the 404
        raise
    secret = row.kind == artifacts.RECOVERY_KEY
    scope = "keys:read" if secret else "artifacts:read"
    require(caller, scope)
    there(row)
    headers = described(row)
    if secret:
        headers["Cache-Control"] = "no-store"
    if ranges.unchanged(request.headers, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    acceptable(request, row.media_type, "application/octet-stream")
    if request.state.head:  # a range is of GET alone
        headers["Content-Length"] = str(row.size)
        return Response(headers=headers, media_type=row.media_type)
    span, part = ranges.span(request.headers, row.size, headers["ETag"])
    if part:
        headers["Content-Range"] = f"bytes {span.start}-{span.stop - 1}/{row.size}"
    headers["Content-Length"] = str(span.stop - span.start)
    status = 206 if part else 200
    await check(services, row)
    await run_in_threadpool(note_read, services, caller, row, span)
    file = await run_in_threadpool(services.blobs.open, row.key)
    alive = partial(run_in_threadpool, lives, services, caller, scope)
    if file is not None:
        return FileResponse(file, span.start, span.stop, status, headers, row.media_type, alive)
    chunks = while_alive(services.blobs.read(row.key, span.start, span.stop), alive)
    return StreamingResponse(chunks, status, headers, media_type=row.media_type)


@router.post(
    "/artifacts/{artifact_id:uuid}/link",
    responses=responses(
        "malformed_request",
        "not_found",
        "wrong_state",
        "recovery_key_revoked",
        "artifact_expired",
        "payload_too_large",
        "unsupported_media_type",
        "invalid_request",
        "artifact_corrupt",
    ),
    dependencies=[accepts(JSON)],
)
async def create_artifact_link(
    request: Request,
    artifact_id: uuid.UUID,
    services: ServicesDep,
    caller: ArtifactsReader,
    spec: LinkSpec = LASTING,
) -> ArtifactLink:
    """Make an address that gives an artifact's bytes without an API key, for at most 15 minutes.

    It is for GET and HEAD and for this artifact only. With an S3 store it leads to S3 itself, and cannot be
    taken back; otherwise to this service, and it ends with the API key that asked for it. Recovery keys get
    no link: their reads are noted by key.
    """
    row = await run_in_threadpool(find, services, caller, artifact_id)
    if row.kind == artifacts.RECOVERY_KEY:
        raise Problem(
            "wrong_state",
            f"The artifact '{row.name}' is a recovery key: download it with an API key that has the scope"
            " 'keys:read'.",
        )
    there(row)
    await check(services, row)
    expires = signed_urls.until(spec.lifetime_s)
    signed = services.blobs.link(row.key, timedelta(seconds=spec.lifetime_s))
    if signed is None:
        own = signed_urls.make(services.settings.secret.get_secret_value(), row.id, caller.key_id, expires)
        signed = f"{str(request.base_url).rstrip('/')}{own}"
    await run_in_threadpool(note_link, services, caller, row, spec.lifetime_s)
    log.info("link_made", artifact_id=str(row.id), api_key_id=str(caller.key_id), lifetime_s=spec.lifetime_s)
    return ArtifactLink(url=signed, expires_at=expires)


def note_link(services: Services, caller: Caller, row: ArtifactRow, lifetime_s: int) -> None:
    with services.transaction() as session:
        audit.record(session, caller.tenant_id, caller, "artifact.linked", row.id, lifetime_s=lifetime_s)


def note_read(services: Services, caller: Caller, row: ArtifactRow, span: ranges.Span) -> None:
    """Who is given which bytes; committed before they leave."""
    secret = row.kind == artifacts.RECOVERY_KEY
    bytes_ = {"start": span.start, "stop": span.stop}
    with services.transaction() as session:
        if secret:
            artifacts.record_read(
                session, row.id, caller.key_id, address=caller.address, request_id=caller.request_id, **bytes_
            )
        audit.record(
            session,
            caller.tenant_id,
            caller,
            "recovery_key.read" if secret else "artifact.downloaded",
            row.id,
            **bytes_,
        )
    if secret:
        log.info(
            "recovery_key_read",
            artifact_id=str(row.id),
            api_key_id=str(caller.key_id),
            address=caller.address,
        )


def recovery_key(session: Session, caller: Caller, artifact_id: uuid.UUID) -> ArtifactRow:
    """The recovery key of this id; 409 for another sort of artifact."""
    row = artifacts.get(session, caller.tenant_id, artifact_id)
    if row.kind != artifacts.RECOVERY_KEY:
        raise Problem(
            "wrong_state",
            f"The artifact '{row.name}' is no recovery key: only those are audited and can be revoked.",
        )
    return row


@router.get(
    "/artifacts/{artifact_id:uuid}/reads",
    responses=responses("not_found", "wrong_state", "invalid_request"),
    dependencies=[accepts(JSON)],
)
def list_reads(
    artifact_id: uuid.UUID,
    services: ServicesDep,
    caller: Admin,
    limit: Annotated[int, Query(ge=1, le=pagination.MAX_PAGE, description="Reads on a page.")] = 50,
    cursor: pagination.Cursor = None,
) -> ArtifactReadPage:
    """List who read a recovery key, newest first; takes the scope `admin`."""
    after = pagination.decode(cursor)
    with services.transaction() as session:
        rows = artifacts.list_reads(
            session, recovery_key(session, caller, artifact_id), after=after, limit=limit + 1
        )
        page, next_cursor = pagination.cut(rows, limit, lambda pair: pair[0])
        items = [
            ArtifactRead(
                id=row.id,
                read_at=row.created_at,
                api_key=ApiKeyName(id=row.api_key_id, name=name),
                address=row.address,
                request_id=row.request_id,
                start=row.start,
                stop=row.stop,
            )
            for row, name in page
        ]
    return ArtifactReadPage(items=items, next_cursor=next_cursor)


@router.delete(
    "/artifacts/{artifact_id:uuid}",
    responses=responses("not_found", "wrong_state"),
    dependencies=[accepts(JSON)],
)
def delete_artifact(artifact_id: uuid.UUID, services: ServicesDep, caller: Anyone) -> Artifact:
    """Delete an artifact's bytes for good: an upload, a job's file, or a recovery key, which is revoked by
    it. Later downloads answer 410.

    Takes the scope `jobs:write`; for a recovery key `admin`. Refused while a job that has not ended needs it.
    The row stays, of an upload without its name; twice is the same as once.
    """
    try:
        with services.transaction() as session:
            row = artifacts.get(session, caller.tenant_id, artifact_id)
            secret = row.kind == artifacts.RECOVERY_KEY
            require(caller, "admin" if secret else "jobs:write")
            if secret:
                if row.revoked_at is None:
                    audit.record(session, caller.tenant_id, caller, "recovery_key.revoked", row.id)
                artifacts.revoke(session, row)
            else:
                removal.remove_artifact(session, row, caller)
            answer = Artifact.model_validate(row)
    except NotFound:
        require(caller, "jobs:write")  # the scope comes before the 404
        raise
    services.blobs.delete([row.key])
    log.info(
        "recovery_key_revoked" if secret else "artifact_deleted",
        artifact_id=str(artifact_id),
        api_key_id=str(caller.key_id),
    )
    return answer
