"""Artifacts: their properties, their bytes, links to them, and who read a recovery key."""

import base64
import uuid
from datetime import timedelta
from functools import partial
from typing import Annotated

import structlog
from fastapi import APIRouter, Query, Request, Response
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse

from expunge.api import pagination, signed_urls
from expunge.api.auth import check_scope, key_still_valid
from expunge.api.caller import Caller
from expunge.api.conditional_requests import ByteRange, etag_of, is_current, requested_range
from expunge.api.deps import (
    JSON,
    Admin,
    AnyCaller,
    ArtifactsReader,
    ServicesDep,
    accepts,
    preferred_media_type,
)
from expunge.api.middleware.sendfile import FileResponse, while_key_valid
from expunge.api.problems import Problem
from expunge.api.request_schemas import LinkSpec
from expunge.api.responses import Responses, problem_responses
from expunge.api.schemas.artifacts import (
    Artifact,
    ArtifactDetails,
    ArtifactLink,
    ArtifactList,
    ArtifactPage,
    ArtifactRead,
    ArtifactReadPage,
    ArtifactVerdict,
)
from expunge.api.schemas.base import ApiKeyName
from expunge.api.services import Services
from expunge.store import artifacts, audit, jobs, red_team, removal, verdicts
from expunge.store.blobs import content_disposition
from expunge.store.errors import NotFound
from expunge.store.models import Artifact as ArtifactRow

log = structlog.get_logger("api")
router = APIRouter(tags=["artifacts"])
DEFAULT_LINK = LinkSpec()
BINARY = {"schema": {"type": "string", "format": "binary"}}
CONTENT: Responses = {
    200: {
        "description": "The bytes, as an attachment; `ETag` and `Repr-Digest` are their sha256.",
        "content": {"application/octet-stream": BINARY},
    },
    206: {"description": "The requested range.", "content": {"application/octet-stream": BINARY}},
    304: {"description": "The client's copy, with the ETag in If-None-Match, is current."},
    **problem_responses(
        "link_expired",
        "not_found",
        "artifact_withheld",
        "recovery_key_revoked",
        "artifact_expired",
        "range_not_satisfiable",
        "artifact_corrupt",
    ),
}


@router.get(
    "/jobs/{job_id:uuid}/artifacts", responses=problem_responses("not_found"), dependencies=[accepts(JSON)]
)
def list_job_artifacts(job_id: uuid.UUID, services: ServicesDep, caller: ArtifactsReader) -> ArtifactList:
    """List the artifacts of a job."""
    with services.transaction() as session:
        jobs.get(session, caller.tenant_id, job_id)
        return ArtifactList(
            items=[
                Artifact.model_validate(row)
                for row in artifacts.list_of_job(session, caller.tenant_id, job_id)
            ]
        )


@router.get("/artifacts", responses=problem_responses("invalid_request"), dependencies=[accepts(JSON)])
def list_uploads(
    services: ServicesDep,
    caller: ArtifactsReader,
    media_type: Annotated[
        str | None,
        Query(
            max_length=100,
            pattern="^[a-z]+/[a-z0-9][a-z0-9.+-]*$",
            description="Only uploads with this media type, for example image/png.",
        ),
    ] = None,
    limit: Annotated[int, Query(ge=1, le=pagination.MAX_PAGE, description="Uploads per page.")] = 50,
    cursor: pagination.Cursor = None,
) -> ArtifactPage:
    """List uploads that are not deleted, newest first.

    The artifacts of a job are listed at /jobs/{id}/artifacts.
    """
    after = pagination.decode_cursor(cursor)
    with services.transaction() as session:
        rows = artifacts.list_uploads(
            session, caller.tenant_id, media_type=media_type, after=after, limit=limit + 1
        )
        page, next_cursor = pagination.split_page(rows, limit, lambda row: row)
        return ArtifactPage(items=[Artifact.model_validate(row) for row in page], next_cursor=next_cursor)


@router.get(
    "/artifacts/{artifact_id:uuid}", responses=problem_responses("not_found"), dependencies=[accepts(JSON)]
)
def get_artifact(artifact_id: uuid.UUID, services: ServicesDep, caller: ArtifactsReader) -> ArtifactDetails:
    """Get an artifact's name, size and digest; of a delta that was judged, the signed verdict and the latest
    one.
    """
    with services.transaction() as session:
        row = artifacts.get(session, caller.tenant_id, artifact_id)
        found = Artifact.model_validate(row).model_dump()
        return ArtifactDetails(**found, verdict=verdict_on(services, session, row))


def verdict_on(services: Services, session: Session, row: ArtifactRow) -> ArtifactVerdict | None:
    """What is known of a delta; None for a file that no verdict is about."""
    if row.job_id is None:
        return None
    job = jobs.get(session, row.tenant_id, row.job_id)
    if job.verdict is None or job.verdict.get("artifact_sha256") != row.sha256:
        return None
    return ArtifactVerdict.model_validate(
        {
            "signed": {"status": verdicts.status_of(job.verdict), "at": job.finished_at},
            "latest": job.latest_verdict,
            "red_team": red_team.policy_of(session, row.tenant_id, services.settings),
        }
    )


def download_headers(row: ArtifactRow) -> dict[str, str]:
    """The headers of a download."""
    digest = base64.b64encode(bytes.fromhex(row.sha256)).decode()
    return {
        "ETag": etag_of(row.sha256),
        "Repr-Digest": f"sha-256=:{digest}:",
        "Accept-Ranges": "bytes",
        "Content-Disposition": content_disposition(row.name),
        "Cache-Control": "private, no-cache",
    }


def check_not_deleted(row: ArtifactRow) -> None:
    """Raises: Problem `recovery_key_revoked` or `artifact_expired` where the bytes were deleted."""
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
            " because they reached the age set by the operator.",
        )


def check_not_withheld(row: ArtifactRow) -> None:
    """Raises: Problem `artifact_withheld` where the job's verdict keeps the bytes from everybody."""
    if row.withheld:
        raise Problem(
            "artifact_withheld",
            f"'{row.name}' of job {row.job_id} is withheld: its verdict is not 'passed', and the request says"
            " evaluation.on_fail: withhold.",
        )


async def verify_bytes(services: Services, row: ArtifactRow) -> None:
    """Check the stored bytes before any of them is sent; flag a damaged artifact for the operator.

    Raises: Problem `artifact_corrupt`.
    """
    try:
        await services.checksums.verify(services.blobs, row)
    except Problem:
        services.metrics.corrupt_artifacts.inc()
        log.error("artifact_corrupt", artifact_id=str(row.id), key=row.key)
        await run_in_threadpool(flag_corrupt, services, row)
        raise


def flag_corrupt(services: Services, row: ArtifactRow) -> None:
    with services.transaction() as session:
        artifacts.record_check(session, row.id, whole=False)


def read_row(services: Services, caller: Caller, artifact_id: uuid.UUID) -> ArtifactRow:
    with services.transaction() as session:
        return artifacts.get(session, caller.tenant_id, artifact_id)


def is_key_valid(services: Services, caller: Caller, scope: str) -> bool:
    with services.reading() as session:
        return key_still_valid(session, caller, scope)


@router.get("/artifacts/{artifact_id:uuid}/content", response_class=Response, responses=CONTENT)
async def download_artifact(
    request: Request, artifact_id: uuid.UUID, services: ServicesDep, caller: AnyCaller
) -> Response:
    """Download an artifact, or a range of its bytes.

    Takes the scope `artifacts:read`. A recovery key takes `keys:read` instead, and the read is recorded
    before the first byte is sent. A long download is aborted when its API key ends.
    """
    # The row, and whether the caller may have it
    try:
        row = await run_in_threadpool(read_row, services, caller, artifact_id)
    except NotFound:
        check_scope(caller, "artifacts:read")  # a missing scope is answered before the 404
        raise
    secret = row.kind == artifacts.RECOVERY_KEY
    scope = "keys:read" if secret else "artifacts:read"
    check_scope(caller, scope)
    check_not_deleted(row)
    check_not_withheld(row)

    # Answers without a body
    headers = download_headers(row)
    if secret:
        headers["Cache-Control"] = "no-store"
    if is_current(request.headers, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    preferred_media_type(request, row.media_type, "application/octet-stream")
    if request.state.head:  # Range applies to GET only
        headers["Content-Length"] = str(row.size)
        return Response(headers=headers, media_type=row.media_type)

    # The bytes to send, verified and recorded before the first of them is sent
    part = requested_range(request.headers, row.size, headers["ETag"])
    start, stop = part or ByteRange(0, row.size)
    if part is not None:
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{row.size}"
    headers["Content-Length"] = str(stop - start)
    status = 200 if part is None else 206
    await verify_bytes(services, row)
    await run_in_threadpool(record_download, services, caller, row, start, stop)
    file = await run_in_threadpool(services.blobs.open, row.key)
    key_valid = partial(run_in_threadpool, is_key_valid, services, caller, scope)
    if file is not None:
        return FileResponse(file, start, stop, status, headers, row.media_type, key_valid)
    chunks = while_key_valid(services.blobs.read(row.key, start, stop), key_valid)
    return StreamingResponse(chunks, status, headers, media_type=row.media_type)


@router.post(
    "/artifacts/{artifact_id:uuid}/link",
    responses=problem_responses(
        "malformed_request",
        "not_found",
        "wrong_state",
        "artifact_withheld",
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
    spec: LinkSpec = DEFAULT_LINK,
) -> ArtifactLink:
    """Create a link from which an artifact can be downloaded without an API key, for at most 15 minutes.

    It is for GET and HEAD, and for this artifact only. With an S3 store it leads to S3 itself and cannot be
    withdrawn; otherwise it leads to this service, and ends when the API key that asked for it ends. There are
    no links to recovery keys, as each of their reads is recorded with the API key.
    """
    row = await run_in_threadpool(read_row, services, caller, artifact_id)
    if row.kind == artifacts.RECOVERY_KEY:
        raise Problem(
            "wrong_state",
            f"The artifact '{row.name}' is a recovery key: download it with an API key that has the scope"
            " 'keys:read'.",
        )
    check_not_deleted(row)
    check_not_withheld(row)
    await verify_bytes(services, row)
    expires = signed_urls.expiry(spec.lifetime_s)
    url = services.blobs.presign(row.key, timedelta(seconds=spec.lifetime_s))
    if url is None:
        secret = services.settings.secret.get_secret_value()
        path = signed_urls.create_link(secret, row.id, caller.key_id, expires)
        url = f"{str(request.base_url).rstrip('/')}{path}"
    await run_in_threadpool(record_link, services, caller, row, spec.lifetime_s)
    log.info(
        "link_created", artifact_id=str(row.id), api_key_id=str(caller.key_id), lifetime_s=spec.lifetime_s
    )
    return ArtifactLink(url=url, expires_at=expires)


def record_link(services: Services, caller: Caller, row: ArtifactRow, lifetime_s: int) -> None:
    with services.transaction() as session:
        audit.record(session, caller.tenant_id, caller, "artifact.linked", row.id, lifetime_s=lifetime_s)


def record_download(services: Services, caller: Caller, row: ArtifactRow, start: int, stop: int) -> None:
    """Record who gets which bytes; committed before any of them is sent."""
    secret = row.kind == artifacts.RECOVERY_KEY
    bytes_ = {"start": start, "stop": stop}
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
    """The recovery key with this id.

    Raises: NotFound; Problem `wrong_state` for another kind of artifact.
    """
    row = artifacts.get(session, caller.tenant_id, artifact_id)
    if row.kind != artifacts.RECOVERY_KEY:
        raise Problem(
            "wrong_state",
            f"The artifact '{row.name}' is not a recovery key: only reads of recovery keys are recorded.",
        )
    return row


@router.get(
    "/artifacts/{artifact_id:uuid}/reads",
    responses=problem_responses("not_found", "wrong_state", "invalid_request"),
    dependencies=[accepts(JSON)],
)
def list_reads(
    artifact_id: uuid.UUID,
    services: ServicesDep,
    caller: Admin,
    limit: Annotated[int, Query(ge=1, le=pagination.MAX_PAGE, description="Reads per page.")] = 50,
    cursor: pagination.Cursor = None,
) -> ArtifactReadPage:
    """List who read a recovery key, newest first.

    Takes the scope `admin`.
    """
    after = pagination.decode_cursor(cursor)
    with services.transaction() as session:
        rows = artifacts.list_reads(
            session, recovery_key(session, caller, artifact_id), after=after, limit=limit + 1
        )
        page, next_cursor = pagination.split_page(rows, limit, lambda pair: pair[0])
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
    responses=problem_responses("not_found", "wrong_state"),
    dependencies=[accepts(JSON)],
)
def delete_artifact(artifact_id: uuid.UUID, services: ServicesDep, caller: AnyCaller) -> Artifact:
    """Delete an artifact's bytes permanently; later downloads answer 410.

    Takes the scope `jobs:write`; for a recovery key, which is thereby revoked, `admin`. Refused while a job
    that has not ended needs the artifact. The artifact's other properties stay, except for the name of an
    upload. Deleting it again changes nothing.
    """
    try:
        with services.transaction() as session:
            row = artifacts.get(session, caller.tenant_id, artifact_id)
            secret = row.kind == artifacts.RECOVERY_KEY
            check_scope(caller, "admin" if secret else "jobs:write")
            if secret:
                if row.revoked_at is None:
                    audit.record(session, caller.tenant_id, caller, "recovery_key.revoked", row.id)
                artifacts.revoke(session, row)
            else:
                removal.remove_artifact(session, row, caller)
            answer = Artifact.model_validate(row)
    except NotFound:
        check_scope(caller, "jobs:write")  # a missing scope is answered before the 404
        raise
    services.blobs.delete([row.key])
    log.info(
        "recovery_key_revoked" if secret else "artifact_deleted",
        artifact_id=str(artifact_id),
        api_key_id=str(caller.key_id),
    )
    return answer
