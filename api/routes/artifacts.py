"""Artifacts: their facts, and their bytes."""

import base64
import uuid
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter, Request, Response
from starlette.responses import StreamingResponse

from api import ranges
from api.deps import JSON, ArtifactsReader, ServicesDep, accepts
from api.problems import Problem, responses
from api.schemas import Artifact, ArtifactList
from store import artifacts, jobs
from store.models import Artifact as ArtifactRow

router = APIRouter(tags=["artifacts"])
BINARY = {"schema": {"type": "string", "format": "binary"}}
CONTENT: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The bytes, as attachment; `ETag` is their sha256, so is `Repr-Digest`.",
        "content": {"application/octet-stream": BINARY},
    },
    206: {"description": "The range asked for.", "content": {"application/octet-stream": BINARY}},
    304: {"description": "The copy with the ETag in If-None-Match is current."},
    **responses("not_found", "range_not_satisfiable", "artifact_corrupt"),
}


@router.get("/jobs/{job_id:uuid}/artifacts", responses=responses("not_found"), dependencies=[accepts(JSON)])
def list_job_artifacts(job_id: uuid.UUID, services: ServicesDep, caller: ArtifactsReader) -> ArtifactList:
    """List what a job made."""
    with services.transaction() as session:
        jobs.get(session, caller.tenant_id, job_id)
        return ArtifactList(items=[Artifact.model_validate(row) for row in artifacts.of_job(session, caller.tenant_id, job_id)])


@router.get("/artifacts/{artifact_id:uuid}", responses=responses("not_found"), dependencies=[accepts(JSON)])
def get_artifact(artifact_id: uuid.UUID, services: ServicesDep, caller: ArtifactsReader) -> Artifact:
    """Look at an artifact's name, size and digest."""
    with services.transaction() as session:
        return Artifact.model_validate(artifacts.get(session, caller.tenant_id, artifact_id))


def described(row: ArtifactRow) -> dict[str, str]:
    """The headers of a download: always an attachment, so that no browser runs what a job drew up."""
    digest = base64.b64encode(bytes.fromhex(row.sha256)).decode()
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "._- ") else "_" for c in row.name.rsplit("/", 1)[-1])
    return {
        "ETag": f'"{row.sha256}"',
        "Repr-Digest": f"sha-256=:{digest}:",
        "Accept-Ranges": "bytes",
        "Content-Disposition": f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(row.name.rsplit('/', 1)[-1], safe='')}",
        "Cache-Control": "private, no-cache",
    }


@router.api_route("/artifacts/{artifact_id:uuid}/content", methods=["HEAD"], include_in_schema=False)
@router.get("/artifacts/{artifact_id:uuid}/content", response_class=Response, responses=CONTENT)
def download_artifact(request: Request, artifact_id: uuid.UUID, services: ServicesDep, caller: ArtifactsReader) -> Response:
    """Download an artifact: whole, or a range of its bytes."""
    with services.transaction() as session:
        row = artifacts.get(session, caller.tenant_id, artifact_id)
    headers = described(row)
    if ranges.unchanged(request.headers, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    accept = accepts(row.media_type, "application/octet-stream").dependency
    accept(request)
    span, partial = ranges.span(request.headers, row.size, headers["ETag"])
    if partial:
        headers["Content-Range"] = f"bytes {span.start}-{span.stop - 1}/{row.size}"
    headers["Content-Length"] = str(span.stop - span.start)
    status = 206 if partial else 200
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers, media_type=row.media_type)
    try:
        services.checked.check(services.blobs, row)
    except Problem:
        services.metrics.corrupt.inc()
        raise
    return StreamingResponse(services.blobs.read(row.key, span.start, span.stop), status, headers, media_type=row.media_type)
