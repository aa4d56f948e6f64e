"""API keys and scopes: who holds a key, and what a route needs of it.

Keys are checked before any route runs (api/middleware/authentication.py); scopes are checked here, by each
route's `require_scope`.
"""

from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.security import HTTPBearer
from sqlalchemy.orm import Session

from expunge.api.caller import Caller
from expunge.api.problems import Problem
from expunge.store import keys

UNKNOWN_KEY = "The API key is unknown, expired or revoked."
bearer = HTTPBearer(
    auto_error=False,
    bearerFormat="API key",
    description="`Authorization: Bearer ex_live_…`",
    scheme_name="ApiKey",
)


def unauthorized(detail: str, error: str = "") -> Problem:
    """A 401; `error` is an error code of RFC 6750, where there is one."""
    parameter = f', error="{error}"' if error else ""
    return Problem("unauthorized", detail, headers={"WWW-Authenticate": f'Bearer realm="expunge"{parameter}'})


def unknown_key() -> Problem:
    """The 401 for a key that is unknown, expired or revoked."""
    return unauthorized(UNKNOWN_KEY, "invalid_token")


def bearer_token(header: str) -> str:
    """The token in an Authorization header.

    Raises: Problem `unauthorized` where the header is missing or is not `Bearer <key>`.
    """
    scheme, _, token = header.partition(" ")
    if not header:
        raise unauthorized("No API key was sent: add 'Authorization: Bearer <key>'.")
    if scheme.lower() != "bearer" or not token.strip():
        raise unauthorized("The Authorization header must be 'Bearer <key>'.", "invalid_request")
    return token.strip()


def key_still_valid(session: Session, caller: Caller, scope: str) -> bool:
    """Whether the caller's key is still live and still has the scope; for answers that take long to send."""
    key = keys.get_live(session, caller.key_id)
    return key is not None and bool({scope, "admin"} & set(key.scopes))


def check_scope(caller: Caller, scope: str) -> None:
    """Raises: Problem `forbidden`, naming the scope, where the caller lacks it."""
    if not caller.may(scope):
        header = {"WWW-Authenticate": f'Bearer realm="expunge", error="insufficient_scope", scope="{scope}"'}
        raise Problem("forbidden", f"The API key lacks the scope '{scope}'.", headers=header)


def require_scope(scope: str | None) -> Any:
    """A route's dependency: the caller, who has this scope. With None the route checks the scope itself."""

    async def check(request: Request, _: Annotated[Any, Depends(bearer)] = None) -> Caller:
        caller: Caller = request.state.caller
        if scope is not None:
            check_scope(caller, scope)
        return caller

    return Depends(check)
