"""The app: `uvicorn expunge.api.app:create_app --factory`."""

import contextlib
import re
from collections.abc import AsyncIterator
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import structlog
from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match

from expunge.api import event_listener, openapi, query_parameters, services, validation_errors
from expunge.api.auth import Authenticate
from expunge.api.middleware.body_limit import Bodies
from expunge.api.middleware.envelope import Envelope, as_problem
from expunge.api.middleware.sendfile import ZeroCopy
from expunge.api.problems import BY_STATUS, Problem, answer
from expunge.api.routes import (
    artifacts,
    audit,
    concepts,
    events,
    jobs,
    keys,
    models,
    queue,
    system,
    uploads,
    webhooks,
)
from expunge.core.sources import check_all
from expunge.core.specs.fields import as_id
from expunge.store import logs, tracing
from expunge.store.errors import StoreError
from expunge.store.server_secret import require_length
from expunge.store.settings import Settings, read

TAGS = [
    {"name": "jobs", "description": "Ask for work and follow it."},
    {"name": "concepts", "description": "Which concepts an erasure moves."},
    {"name": "artifacts", "description": "What jobs made, and uploads."},
    {"name": "models", "description": "What jobs may name."},
    {"name": "webhooks", "description": "Be told of jobs' ends."},
    {"name": "keys", "description": "API keys, and the audit trail of what was done with them."},
    {"name": "system", "description": "Health, metrics, documentation."},
]
ROUTES = (jobs, queue, concepts, events, uploads, artifacts, models, webhooks, keys, audit, system)


def release() -> str:
    try:
        return version("expunge")
    except PackageNotFoundError:
        return "0.1.0"


def methods_of(request: Request) -> set[str]:
    """What the resource takes: each of its methods is a route of its own, and the router names those of the
    first.
    """
    served = [route for module in ROUTES for route in module.router.routes]
    found = {
        method
        for route in served
        if route.matches(request.scope)[0] is not Match.NONE
        for method in getattr(route, "methods", ())
    }
    return found | {"HEAD"} if "GET" in found else found


def bad_id(request: Request) -> Problem | None:
    """422 where the address would be a route's, were what stands in place of an id one."""
    for module in ROUTES:
        for route in module.router.routes:
            pattern = re.sub(r"\{(\w+):uuid\}", r"(?P<\1>[^/]+)", getattr(route, "path", ""))
            found = (
                re.fullmatch(pattern, request.url.path)
                if request.method in (getattr(route, "methods", None) or ())
                else None
            )
            for name, value in found.groupdict().items() if found else ():
                try:
                    as_id(value)
                except ValueError as error:
                    return validation_errors.of_field(f"path.{name}", str(error))
    return None


async def on_error(request: Request, error: Exception) -> Response:
    """Problems, validation errors and the router's own 404 and 405, all as problems."""
    if isinstance(error, RequestValidationError):
        field = getattr(request.scope.get("route"), "body_field", None)
        problem = validation_errors.problem(error, field and field.field_info.annotation)
    elif isinstance(error, HTTPException):
        kind = BY_STATUS.get(error.status_code, BY_STATUS[500])
        detail, headers = None, dict(error.headers or {})
        if kind.status == 405:
            headers["Allow"] = ", ".join(sorted(methods_of(request)))
            detail = f"{request.method} is not a method of {request.url.path}: use {headers['Allow']}."
        problem = Problem(kind.code, detail, headers=headers)
        if kind.status == 404:
            problem = bad_id(request) or Problem(
                "not_found", f"There is nothing at {request.url.path}: /docs lists the addresses."
            )
    else:
        problem = as_problem(error)
    scope = request.scope
    return answer(
        problem, instance=scope["path"], request_id=request.state.request_id, root=scope["root_path"]
    )


def create_app(settings: Settings | None = None) -> FastAPI:
    """Reads the environment unless given settings; connects to nothing before the first request.

    ValueError without a secret.
    """
    settings = settings or read()
    require_length(settings.secret.get_secret_value())
    logs.configure(settings, "api")
    for model in check_all(settings.models):
        if model.problem:
            structlog.get_logger("api").warning(
                "model_not_usable_here", model=model.id, code=model.code, problem=model.problem
            )
    shared = services.build(settings)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with event_listener.running(shared.hub):
            yield
        await shared.limiter.close()

    app = FastAPI(
        title="Expunge",
        version=release(),
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        openapi_tags=TAGS,
        dependencies=[Depends(query_parameters.known)],
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.services = shared
    for routes in ROUTES:
        app.include_router(routes.router)
    for error in (Problem, StoreError, RequestValidationError, HTTPException):
        app.add_exception_handler(error, on_error)
    app.add_middleware(Bodies)
    app.add_middleware(Authenticate, services=shared)
    app.add_middleware(Envelope, metrics=shared.metrics)
    if tracing.configure("api"):
        from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor

        FastAPIInstrumentor.instrument_app(app, excluded_urls="healthz,readyz,metrics")
    inner = app.build_middleware_stack
    app.build_middleware_stack = lambda: ZeroCopy(inner())  # type: ignore[method-assign]
    custom: Any = partial(openapi.document, app)
    app.openapi = custom  # type: ignore[method-assign]
    return app
