"""Health, metrics, signing keys, and the pages that explain the service."""

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST

from expunge.api import pages
from expunge.api.deps import ServicesDep
from expunge.api.problems import Problem
from expunge.api.responses import problem_responses
from expunge.api.schemas.system import Health, SigningKey, SigningKeys
from expunge.core import json_schemas
from expunge.store import signing_keys

router = APIRouter(tags=["system"])


@router.get("/healthz", responses=problem_responses(public=True))
async def check_health() -> Health:
    """Check whether the process answers."""
    return Health(status="ok")


@router.get("/readyz", responses=problem_responses("unavailable", public=True))
async def check_readiness(services: ServicesDep) -> Health:
    """Check whether requests can be served; the answer is at most a second old."""
    checks = await services.readiness()
    return Health(status="ok" if checks["redis"] == "ok" else "degraded", checks=checks)


@router.get(
    "/metrics",
    response_class=PlainTextResponse,
    responses=problem_responses(
        "unauthorized", "too_many_requests", "internal_error", "unavailable", public=True
    ),
)
def read_metrics(services: ServicesDep) -> Response:
    """Get Prometheus metrics of the whole service.

    Takes the operator's token, `Authorization: Bearer <EXPUNGE_METRICS_TOKEN>`, unless the operator made them
    public.
    """
    return Response(services.metrics.text(), media_type=CONTENT_TYPE_LATEST)


@router.get("/signing-keys", responses=problem_responses(public=True))
def list_signing_keys(services: ServicesDep, response: Response) -> SigningKeys:
    """List the public keys that sign this service's manifests and certificates, or signed them before.

    `expunge verify --url` reads them.
    """
    response.headers["Cache-Control"] = "public, max-age=60"
    with services.transaction() as session:
        return SigningKeys(items=[SigningKey.model_validate(row) for row in signing_keys.list_keys(session)])


@router.get("/openapi.json", include_in_schema=False)
def openapi_document(request: Request) -> JSONResponse:
    root = request.scope["root_path"]
    servers = {"servers": [{"url": root}]} if root else {}
    return JSONResponse(
        {**request.app.openapi(), **servers}, headers={"Cache-Control": "public, max-age=300"}
    )


@router.get("/schemas/{name}", include_in_schema=False)
def schema_document(name: str) -> JSONResponse:
    """The JSON schema of a report, an inspection or a certificate."""
    if name not in json_schemas.NAMES:
        raise Problem("not_found", f"there is no schema '{name}': there are {', '.join(json_schemas.NAMES)}")
    return JSONResponse(
        json_schemas.read(name),
        media_type="application/schema+json",
        headers={"Cache-Control": "public, max-age=300"},
    )


@router.get("/docs", include_in_schema=False)
def docs_page(request: Request) -> HTMLResponse:
    return HTMLResponse(
        pages.render_docs(request.app.openapi(), request.scope["root_path"]),
        headers={"Cache-Control": "public, max-age=300"},
    )


@router.get("/", include_in_schema=False)
def home_page(request: Request) -> HTMLResponse:
    return HTMLResponse(
        pages.render_home(str(request.base_url), request.app.version, request.scope["root_path"])
    )
