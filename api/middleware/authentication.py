"""Authentication, denied by default: every path needs an API key unless it is listed here."""

import hmac
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from expunge.api import root_path, signed_urls
from expunge.api.auth import bearer_token, unauthorized, unknown_key
from expunge.api.caller import Caller
from expunge.api.problems import Problem
from expunge.api.services import Services
from expunge.core import json_schemas
from expunge.store import keys

PAGES = ("/", "/healthz", "/readyz", "/openapi.json", "/docs", "/signing-keys")
PUBLIC = frozenset((*PAGES, *(f"/schemas/{name}" for name in json_schemas.NAMES)))
UNLIMITED = frozenset({"/healthz", "/readyz"})  # probes are not rate limited
METRICS = "/metrics"


def caller_by_token(services: Services, token: str) -> Caller | None:
    """The caller whose live key has this text; None where there is none."""
    with services.transaction() as session:
        key = keys.authenticate(
            session, services.settings.secret.get_secret_value(), token, services.settings.older_secrets
        )
        return Caller(key.tenant_id, key.id, frozenset(key.scopes)) if key else None


def caller_by_link(services: Services, link: signed_urls.Link) -> Caller | None:
    """The key that asked for a link, allowed to read artifacts only; None where that key has ended."""
    with services.transaction() as session:
        key = keys.get_live(session, link.by)
        return Caller(key.tenant_id, key.id, frozenset({"artifacts:read"})) if key else None


class Authenticate:
    """ASGI middleware: puts the caller into the request's state, or answers 401 before any route runs.

    It also counts the request against its rate limit, as that depends on who the caller is.
    """

    def __init__(self, app: ASGIApp, services: Services) -> None:
        self.app, self.services = app, services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path = root_path.route_path(scope)
            if path == METRICS:
                await self.check_metrics_token(scope)
            elif path not in PUBLIC:
                await self.authenticate(scope)
            elif path not in UNLIMITED:
                await self.services.rate_limiter.limit_address(scope)
        await self.app(scope, receive, send)

    async def authenticate(self, scope: Scope) -> None:
        """Put the caller into the request's state.

        Raises: Problem `unauthorized`, `link_expired` or `too_many_requests`.
        """
        found = await self.find_caller(scope)
        await self.services.rate_limiter.limit_tenant(scope, found.tenant_id)
        address = (scope.get("client") or (None,))[0]
        caller = replace(found, address=address, request_id=scope["state"]["request_id"])
        scope["state"]["caller"] = caller
        scope["state"]["tenant"] = str(caller.tenant_id)

    async def find_caller(self, scope: Scope) -> Caller:
        """The caller by a valid link, whatever else the request carries; otherwise by its API key.

        Raises: Problem `unauthorized`, `link_expired` or `too_many_requests`.
        """
        services, settings = self.services, self.services.settings
        secret = settings.secret.get_secret_value()

        # A signed link to an artifact
        link = signed_urls.requested_link(scope)
        if link is not None and signed_urls.is_valid(link, secret, settings.older_secrets):
            look_up = partial(run_in_threadpool, caller_by_link, services, link)
            caller = await self.look_up(scope, {str(link.by)}, look_up)
            if caller is not None:
                return caller
        header = Headers(scope=scope).get("authorization", "")
        if not header and link is not None:
            await services.rate_limiter.limit_address(scope)
            raise Problem("link_expired")

        # The key's text
        try:
            token = bearer_token(header)
            if not keys.is_well_formed(token):
                raise unknown_key()
        except Problem:
            await services.rate_limiter.limit_address(scope)
            raise

        # Its caller, from the cache or the database
        look_up = partial(services.key_cache.find_caller, token, partial(caller_by_token, services))
        if services.key_cache.has(token):
            caller = await look_up()
        else:
            identifiers = keys.identifiers_of(token, (secret, *settings.older_secrets))
            caller = await self.look_up(scope, identifiers, look_up)
        if caller is None:
            raise unknown_key()
        return caller

    async def look_up(
        self, scope: Scope, identifiers: set[str], ask: Callable[[], Awaitable[Caller | None]]
    ) -> Caller | None:
        """Ask the database for a caller. It costs a token of the address, returned when a caller is found.

        An address without tokens may still look up keys whose identifiers are those of live ones, so that
        strangers behind the same address cannot lock a tenant out.
        Raises: Problem `too_many_requests`.
        """
        block = None
        try:
            block = await self.services.rate_limiter.limit_address(scope)
        except Problem:
            if identifiers.isdisjoint(await self.services.live_identifiers()):
                raise
        caller = await ask()
        if caller is not None and block is not None:
            block.tokens += 1
        return caller

    async def check_metrics_token(self, scope: Scope) -> None:
        """Let a scraper pass with the operator's token, or, with EXPUNGE_METRICS_PUBLIC, without one.

        A tenant's key is not enough, as metrics cover the whole service.
        Raises: Problem `unauthorized` or `too_many_requests`.
        """
        settings, header = self.services.settings, Headers(scope=scope).get("authorization", "")
        token = settings.metrics_token.get_secret_value()
        if token and hmac.compare_digest(header.encode(), f"Bearer {token}".encode()):
            return
        await self.services.rate_limiter.limit_address(scope)
        if not settings.metrics_public:
            raise unauthorized(
                "/metrics needs the operator's token: send 'Authorization: Bearer' with the value of"
                " EXPUNGE_METRICS_TOKEN."
            )
