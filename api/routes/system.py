"""Health, metrics and the pages that explain the service."""

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST

from expunge.api import pages
from expunge.api.deps import ServicesDep
from expunge.api.problems import responses
from expunge.api.schemas import Health, SigningKey, SigningKeys
from expunge.store import signing_keys

router = APIRouter(tags=["system"])


@router.get("/healthz", responses=responses(public=True))
async def check_health() -> Health:
    """Whether the process answers."""
    return Health(status="ok")


@router.get("/readyz", responses=responses("unavailable", public=True))
async def check_readiness(services: ServicesDep) -> Health:
    """Whether requests can be served, as it was found within the last second."""
    checks = await services.ready()
    return Health(status="ok" if checks["redis"] == "ok" else "degraded", checks=checks)


@router.get(
    "/metrics",
    response_class=PlainTextResponse,
    responses=responses("unauthorized", "too_many_requests", "internal_error", "unavailable", public=True),
)
def read_metrics(services: ServicesDep) -> Response:
    """Prometheus metrics of the whole service; take the operator's token, `Authorization: Bearer
    <EXPUNGE_METRICS_TOKEN>`, unless they were made public.
    """
    return Response(services.metrics.text(), media_type=CONTENT_TYPE_LATEST)


@router.get("/signing-keys", responses=responses(public=True))
def list_signing_keys(services: ServicesDep, response: Response) -> SigningKeys:
    """The public keys that sign this service's manifests, and those that did before: what `expunge verify
    --url` asks for.
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


@router.get("/docs", include_in_schema=False)
def docs_page(request: Request) -> HTMLResponse:
    return HTMLResponse(
        pages.docs(request.app.openapi(), request.scope["root_path"]),
        headers={"Cache-Control": "public, max-age=300"},
    )


@router.get("/", include_in_schema=False)
def home_page(request: Request) -> HTMLResponse:
    return HTMLResponse(pages.home(str(request.base_url), request.app.version, request.scope["root_path"]))
