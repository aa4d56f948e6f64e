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

from expunge.api import event_listener, query_parameters, services, validation_errors
from expunge.api.exceptions import to_problem
from expunge.api.middleware import stack
from expunge.api.openapi_document import build_document
from expunge.api.problems import BY_STATUS, Problem, problem_response
from expunge.api.routes import (
    artifacts,
    audit,
    compare,
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
from expunge.store import logs
from expunge.store.errors import StoreError
from expunge.store.server_secret import require_length
from expunge.store.settings import Settings, read

TAGS = [
    {"name": "jobs", "description": "Create jobs and follow them."},
    {"name": "concepts", "description": "Which concepts an erasure changes."},
    {"name": "artifacts", "description": "The files of jobs, and uploads."},
    {"name": "models", "description": "The models that jobs may name."},
    {"name": "webhooks", "description": "Notifications when jobs end."},
    {"name": "keys", "description": "API keys, and the audit trail of what was done with them."},
    {"name": "system", "description": "Health, metrics, documentation."},
]
ROUTES = (jobs, compare, queue, concepts, events, uploads, artifacts, models, webhooks, keys, audit, system)


def create_app(settings: Settings | None = None) -> FastAPI:
    """The app, by these settings or by the environment; connects to nothing before the first request.

    Raises: ValueError where the secret is missing or too short.
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
        async with event_listener.running(shared.event_listener):
            yield
        await shared.rate_limiter.close()

    app = FastAPI(
        title="Expunge",
        version=package_version(),
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        openapi_tags=TAGS,
        dependencies=[Depends(query_parameters.refuse_unknown)],
        middleware=stack.middleware(shared),
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.services = shared
    for routes in ROUTES:
        app.include_router(routes.router)
    for error in (Problem, StoreError, RequestValidationError, HTTPException):
        app.add_exception_handler(error, on_error)
    stack.wrap(app)
    custom: Any = partial(build_document, app)
    app.openapi = custom  # type: ignore[method-assign]
    return app


def package_version() -> str:
    try:
        return version("expunge")
    except PackageNotFoundError:
        return "0.1.0"


async def on_error(request: Request, error: Exception) -> Response:
    """Answer problems, validation errors, and the router's own 404 and 405 as problems."""
    scope = request.scope
    if isinstance(error, RequestValidationError):
        field = getattr(scope.get("route"), "body_field", None)
        problem = validation_errors.validation_problem(error, field and field.field_info.annotation)
    elif isinstance(error, HTTPException):
        problem = router_problem(request, error)
    else:
        problem = to_problem(error)
    return problem_response(
        problem, instance=scope["path"], request_id=request.state.request_id, root=scope["root_path"]
    )


def router_problem(request: Request, error: HTTPException) -> Problem:
    """The problem for an error of the router: mostly 404 and 405."""
    kind = BY_STATUS.get(error.status_code, BY_STATUS[500])
    if kind.status == 404:
        nothing_there = f"There is nothing at {request.url.path}: /docs lists the addresses."
        return id_problem(request) or Problem("not_found", nothing_there)
    detail, headers = None, dict(error.headers or {})
    if kind.status == 405:
        headers["Allow"] = ", ".join(sorted(supported_methods(request)))
        detail = f"{request.url.path} does not support {request.method}: use {headers['Allow']}."
    return Problem(kind.code, detail, headers=headers)


def supported_methods(request: Request) -> set[str]:
    """All methods of the resource: each is a route of its own, and the router names only the first's."""
    found: set[str] = set()
    for module in ROUTES:
        for route in module.router.routes:
            if route.matches(request.scope)[0] is not Match.NONE:
                found.update(getattr(route, "methods", ()))
    return found | {"HEAD"} if "GET" in found else found


def id_problem(request: Request) -> Problem | None:
    """A 422 where the address would be a route's, but has something in place of an id that is not one."""
    for module in ROUTES:
        for route in module.router.routes:
            if request.method not in (getattr(route, "methods", None) or ()):
                continue
            pattern = re.sub(r"\{(\w+):uuid\}", r"(?P<\1>[^/]+)", getattr(route, "path", ""))
            found = re.fullmatch(pattern, request.url.path)
            for name, value in found.groupdict().items() if found else ():
                try:
                    as_id(value)
                except ValueError as error:
                    return validation_errors.field_problem(f"path.{name}", str(error))
    return None
