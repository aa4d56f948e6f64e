"""Default-deny: every path needs an API key unless it is listed here, whatever serves it."""

import uuid
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.security import HTTPBearer
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from api import links
from api.problems import Problem
from api.services import Services
from store import keys

PUBLIC = frozenset({"/", "/healthz", "/readyz", "/openapi.json", "/docs", "/signing-keys"})
UNLIMITED = frozenset({"/healthz", "/readyz", "/metrics"})  # probes come as often as they like
bearer = HTTPBearer(auto_error=False, bearerFormat="API key", description="`Authorization: Bearer ex_live_…`", scheme_name="ApiKey")


@dataclass(frozen=True)
class Caller:
    """Who asks."""

    tenant_id: uuid.UUID
    key_id: uuid.UUID
    scopes: frozenset[str]
    address: str | None = None
    request_id: str = ""

    def may(self, scope: str) -> bool:
        return scope in self.scopes or "admin" in self.scopes


def denied(detail: str, error: str = "") -> Problem:
    return Problem("unauthorized", detail, headers={"WWW-Authenticate": f'Bearer realm="expunge"{error}'})


def lookup(services: Services, token: str) -> Caller | None:
    with services.transaction() as session:
        key = keys.authenticate(session, services.settings.secret.get_secret_value(), token, services.settings.older_secrets)
        return Caller(key.tenant_id, key.id, frozenset(key.scopes)) if key else None


def follow(services: Services, link: links.Link) -> Caller:
    """Whoever holds a link may read its one artifact, in the name of the key that asked for it."""
    if links.good(link, services.settings.secret.get_secret_value(), services.settings.older_secrets):
        with services.transaction() as session:
            key = keys.live(session, link.by)
            if key is not None:
                return Caller(key.tenant_id, key.id, frozenset({"artifacts:read"}))
    raise Problem("link_expired")


def local(scope: Scope) -> bool:
    """Whether the request comes from this machine itself, not through a proxy on it."""
    forwarded = any(name in (b"x-forwarded-for", b"forwarded", b"x-real-ip") for name, _ in scope["headers"])
    return (scope.get("client") or ("", 0))[0] in ("127.0.0.1", "::1") and not forwarded


class Authenticate:
    """ASGI middleware: 401 before any route sees the request."""

    def __init__(self, app: ASGIApp, services: Services) -> None:
        self.app, self.services = app, services

    def open(self, scope: Scope) -> bool:
        path = scope["path"]
        return path in PUBLIC or (path == "/metrics" and (self.services.settings.metrics_public or local(scope)))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self.open(scope):
            header = Headers(scope=scope).get("authorization", "")
            link = None if header else links.asked(scope)
            try:
                known = await self.caller(header) if link is None else await run_in_threadpool(follow, self.services, link)
            except Problem:
                await self.services.limiter.stranger(scope)
                raise
            await self.services.limiter.known(scope, known.key_id)
            address = (scope.get("client") or (None,))[0]
            scope["state"]["caller"] = caller = replace(known, address=address, request_id=scope["state"]["request_id"])
            scope["state"]["tenant"] = str(caller.tenant_id)
        elif scope["type"] == "http" and scope["path"] not in UNLIMITED:
            await self.services.limiter.stranger(scope)
        await self.app(scope, receive, send)

    async def caller(self, header: str) -> Caller:
        scheme, _, token = header.partition(" ")
        if not header:
            raise denied("No API key was sent: add 'Authorization: Bearer <key>'.")
        if scheme.lower() != "bearer" or not token.strip():
            raise denied("The Authorization header must be 'Bearer <key>'.", ', error="invalid_request"')
        found = await self.services.known.caller(token.strip(), partial(lookup, self.services))
        if found is None:
            raise denied("The API key is unknown, expired or revoked.", ', error="invalid_token"')
        return found


def require(caller: Caller, scope: str) -> None:
    """403 naming the scope that the caller lacks."""
    if not caller.may(scope):
        header = {"WWW-Authenticate": f'Bearer realm="expunge", error="insufficient_scope", scope="{scope}"'}
        raise Problem("forbidden", f"The API key lacks the scope '{scope}'.", headers=header)


def need(scope: str | None) -> Any:
    """A route's dependency: the caller, who has this scope; with None, the route asks for it itself."""

    async def check(request: Request, _: Annotated[Any, Depends(bearer)] = None) -> Caller:
        caller: Caller = request.state.caller
        if scope is not None:
            require(caller, scope)
        return caller

    return Depends(check)
