"""The routes' common dependencies: services, the caller with a scope, and common headers."""

import re
from typing import Annotated, Any

from fastapi import Depends, Header, Query, Request

from expunge.api.auth import require_scope
from expunge.api.caller import Caller
from expunge.api.problems import Problem
from expunge.api.services import Services

JSON = "application/json"
MAX_WAIT = 30  # seconds
PREFER_WAIT = re.compile(r"(?:^|[,;])\s*wait\s*=\s*\"?(\d{1,6})\"?\s*(?:$|[,;])", re.IGNORECASE)
QUALITY = re.compile(r"[01](\.\d{0,3})?")
PreferHeader = Header(
    alias="Prefer",
    description=(
        "`wait=N`: delay the answer for up to N seconds (at most 30) until the job has ended (RFC 7240)."
    ),
)


async def get_services(request: Request) -> Services:
    found: Services = request.app.state.services
    return found


async def prefer_wait(prefer: Annotated[str | None, PreferHeader] = None) -> int:
    """Seconds that the client wants to wait for the job's end; 0 without the preference."""
    found = PREFER_WAIT.search(prefer or "")
    return min(MAX_WAIT, int(found[1])) if found else 0


def accepts(*media_types: str) -> Any:
    """A route's dependency: which of its media types the client prefers.

    Raises: Problem `not_acceptable` where the client accepts none of them.
    """

    async def choose(request: Request) -> str:
        return preferred_media_type(request, *media_types)

    return Depends(choose)


def preferred_media_type(request: Request, *media_types: str) -> str:
    """Which of the media types the client prefers, by its Accept header.

    Raises: Problem `not_acceptable` where the client accepts none of them.
    """
    header = ",".join(request.headers.getlist("accept")) or "*/*"
    best_q, best = 0.0, ""
    for media_type in media_types:
        q = quality(header, media_type)
        if q > best_q:
            best_q, best = q, media_type
    if not best:
        raise Problem(
            "not_acceptable", f"This resource is served as {' or '.join(media_types)}: accept one of them."
        )
    return best


def quality(header: str, media_type: str) -> float:
    """A media type's q by an Accept header: that of the most specific range it matches (RFC 9110, 12.5.1)."""
    ranges = {media_type: 2, media_type.split("/")[0] + "/*": 1, "*/*": 0}
    best_rank, q = -1, 0.0
    for item in header.split(","):
        name, *parameters = (part.strip() for part in item.split(";"))
        rank = ranges.get(name.lower(), -1)
        if rank > best_rank:
            given = next((p[2:] for p in parameters if p.lower().startswith("q=")), "1")
            best_rank, q = rank, float(given) if QUALITY.fullmatch(given) else 1.0
    return q


ServicesDep = Annotated[Services, Depends(get_services)]
WaitDep = Annotated[int, Depends(prefer_wait)]
JobsReader = Annotated[Caller, require_scope("jobs:read")]
JobsWriter = Annotated[Caller, require_scope("jobs:write")]
ArtifactsReader = Annotated[Caller, require_scope("artifacts:read")]
WebhooksWriter = Annotated[Caller, require_scope("webhooks:write")]
Admin = Annotated[Caller, require_scope("admin")]
AnyCaller = Annotated[Caller, require_scope(None)]
DryRunQuery = Annotated[
    bool,
    Query(
        description=(
            "Check the request and answer 200 with its resolved spec; store nothing. Images, deltas and"
            " prompt sets that are not uploaded yet may be named 00000000-0000-0000-0000-000000000001 and so"
            " on."
        )
    ),
]
