"""Default-deny: every path needs an API key unless it is listed here, whatever serves it."""

import hmac
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.security import HTTPBearer
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from expunge.api import root_path, signed_urls
from expunge.api.problems import Problem
from expunge.api.services import Services
from expunge.store import keys

PUBLIC = frozenset({"/", "/healthz", "/readyz", "/openapi.json", "/docs", "/signing-keys"})
UNLIMITED = frozenset({"/healthz", "/readyz"})  # probes come as often as they like
METRICS = "/metrics"
UNKNOWN = "The API key is unknown, expired or revoked."
bearer = HTTPBearer(
    auto_error=False,
    bearerFormat="API key",
    description="`Authorization: Bearer ex_live_…`",
    scheme_name="ApiKey",
)


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
        key = keys.authenticate(
            session, services.settings.secret.get_secret_value(), token, services.settings.older_secrets
        )
        return Caller(key.tenant_id, key.id, frozenset(key.scopes)) if key else None


def follow(services: Services, link: signed_urls.Link) -> Caller | None:
    """Whoever holds a link may read its one artifact, in the name of the key that asked for it."""
    with services.transaction() as session:
        key = keys.get_live(session, link.by)
        return Caller(key.tenant_id, key.id, frozenset({"artifacts:read"})) if key else None


def still(session: Session, caller: Caller, scope: str) -> bool:
    """Whether the key that an answer in progress was begun with lives on, and has the scope."""
    key = keys.get_live(session, caller.key_id)
    return key is not None and bool({scope, "admin"} & set(key.scopes))


class Authenticate:
    """ASGI middleware: 401 before any route sees the request."""

    def __init__(self, app: ASGIApp, services: Services) -> None:
        self.app, self.services = app, services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path = root_path.route(scope)
            if path == METRICS:
                await self.scraper(scope)
            elif path not in PUBLIC:
                await self.admit(scope)
            elif path not in UNLIMITED:
                await self.services.limiter.stranger(scope)
        await self.app(scope, receive, send)

    async def admit(self, scope: Scope) -> None:
        """Put the caller into the request's state, or refuse."""
        known = await self.caller(scope)
        await self.services.limiter.known(scope, known.tenant_id)
        address = (scope.get("client") or (None,))[0]
        scope["state"]["caller"] = caller = replace(
            known, address=address, request_id=scope["state"]["request_id"]
        )
        scope["state"]["tenant"] = str(caller.tenant_id)

    async def caller(self, scope: Scope) -> Caller:
        """By a good link for its artifact, whatever else the request carries; else by its key."""
        services, link = self.services, signed_urls.asked(scope)
        if link is not None and signed_urls.good(
            link, services.settings.secret.get_secret_value(), services.settings.older_secrets
        ):
            found = await self.looked_up(
                scope, {str(link.by)}, partial(run_in_threadpool, follow, services, link)
            )
            if found is not None:
                return found
        header = Headers(scope=scope).get("authorization", "")
        if not header and link is not None:
            await services.limiter.stranger(scope)
            raise Problem("link_expired")
        try:
            token = bearer_token(header)
            if not keys.is_well_formed(token):
                raise denied(UNKNOWN, ', error="invalid_token"')
        except Problem:
            await services.limiter.stranger(scope)
            raise
        ask = partial(services.known.caller, token, partial(lookup, services))
        marks = keys.identifiers_of(
            token, (services.settings.secret.get_secret_value(), *services.settings.older_secrets)
        )
        found = await (ask() if services.known.remembers(token) else self.looked_up(scope, marks, ask))
        if found is None:
            raise denied(UNKNOWN, ', error="invalid_token"')
        return found

    async def looked_up(
        self, scope: Scope, marks: set[str], ask: Callable[[], Awaitable[Caller | None]]
    ) -> Caller | None:
        """A look into the database costs a stranger's token, which comes back when it finds somebody.

        Without one, only live keys are looked up.
        """
        block = None
        try:
            block = await self.services.limiter.stranger(scope)
        except Problem:
            if marks.isdisjoint(await self.services.living()):
                raise
        found = await ask()
        if found is not None and block is not None:
            block.tokens += 1
        return found

    async def scraper(self, scope: Scope) -> None:
        """Metrics are the whole service's: they take the operator's token, no tenant's key, unless they are
        public.
        """
        settings, header = self.services.settings, Headers(scope=scope).get("authorization", "")
        wanted = settings.metrics_token.get_secret_value()
        if wanted and hmac.compare_digest(header.encode(), f"Bearer {wanted}".encode()):
            return
        await self.services.limiter.stranger(scope)
        if not settings.metrics_public:
            raise denied(
                "The metrics take 'Authorization: Bearer' and the token that the operator has set as"
                " EXPUNGE_METRICS_TOKEN."
            )


def bearer_token(header: str) -> str:
    """The token of an Authorization header. Problem: unauthorized."""
    scheme, _, token = header.partition(" ")
    if not header:
        raise denied("No API key was sent: add 'Authorization: Bearer <key>'.")
    if scheme.lower() != "bearer" or not token.strip():
        raise denied("The Authorization header must be 'Bearer <key>'.", ', error="invalid_request"')
    return token.strip()


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
