"""Health, metrics and the pages that explain the service."""

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST
from redis import Redis, RedisError
from sqlalchemy import text

from api import pages
from api.auth import Caller
from api.deps import ServicesDep
from api.problems import Problem, responses
from api.schemas import Health, SigningKey, SigningKeys
from api.services import Services
from store import pauses, signing_keys, workers

router = APIRouter(tags=["system"])
PROBE = 1.0  # seconds


@router.api_route("/healthz", methods=["GET", "HEAD"], include_in_schema=False)
@router.get("/healthz", responses=responses(public=True))
def check_health() -> Health:
    """Whether the process answers."""
    return Health(status="ok")


def ping_redis(services: Services) -> str:
    """Redis only rings the bell: without it the service is slower to start a job, not down."""
    url = services.settings.redis_url.get_secret_value().replace("redis+socket://", "unix://", 1)
    try:
        with Redis.from_url(url, socket_connect_timeout=PROBE, socket_timeout=PROBE) as redis:
            redis.ping()
    except RedisError:
        return "down"
    return "ok"


@router.api_route("/readyz", methods=["GET", "HEAD"], include_in_schema=False)
@router.get("/readyz", responses=responses("unavailable", public=True))
def check_readiness(services: ServicesDep) -> Health:
    """Whether requests can be served: the database must answer; a silent Redis only degrades; a paused queue, and one without a worker that is ready, take jobs all
    the same."""
    with services.transaction() as session:
        session.execute(text("select 1 from jobs limit 1"))
        queue = "running" if pauses.current(session, None) is None else "paused"
        ready = "ready" if workers.able(session) else "none ready"
    redis = ping_redis(services)
    return Health(status="ok" if redis == "ok" else "degraded", checks={"database": "ok", "redis": redis, "queue": queue, "workers": ready})


@router.get("/metrics", response_class=PlainTextResponse, responses=responses())
def read_metrics(request: Request, services: ServicesDep) -> Response:
    """Prometheus metrics; needs the scope `admin`, or this machine, unless the operator made them public."""
    caller: Caller | None = getattr(request.state, "caller", None)
    if caller is not None and "admin" not in caller.scopes:
        raise Problem("forbidden", "The API key lacks the scope 'admin'.")
    return Response(services.metrics.text(), media_type=CONTENT_TYPE_LATEST)


@router.get("/signing-keys", responses=responses(public=True))
def list_signing_keys(services: ServicesDep, response: Response) -> SigningKeys:
    """The public keys that sign this service's manifests, and those that did before: what `expunge verify --url` asks for."""
    response.headers["Cache-Control"] = "public, max-age=60"
    with services.transaction() as session:
        return SigningKeys(items=[SigningKey.model_validate(row) for row in signing_keys.list_keys(session)])


@router.get("/openapi.json", include_in_schema=False)
def openapi_document(request: Request) -> JSONResponse:
    return JSONResponse(request.app.openapi(), headers={"Cache-Control": "public, max-age=300"})


@router.get("/docs", include_in_schema=False)
def docs_page(request: Request) -> HTMLResponse:
    return HTMLResponse(pages.docs(request.app.openapi()), headers={"Cache-Control": "public, max-age=300"})


@router.get("/", include_in_schema=False)
def home_page(request: Request, services: ServicesDep) -> HTMLResponse:
    return HTMLResponse(pages.home(str(request.base_url), request.app.version, list(services.settings.models)))
