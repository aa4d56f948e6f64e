"""What routes ask for: services, the caller, and the request's common headers."""

import hashlib
import json
import re
import uuid
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Header, Query, Request

from expunge.api import root_path
from expunge.api.auth import Caller, need
from expunge.api.problems import Problem, bad_header
from expunge.api.services import Services

MAX_WAIT = 30  # seconds
KEY = re.compile(r"^[\x21-\x7e](?:[\x20-\x7e]{0,253}[\x21-\x7e])?$")
PREFER_WAIT = re.compile(r"(?:^|[,;])\s*wait\s*=\s*\"?(\d{1,6})\"?\s*(?:$|[,;])", re.IGNORECASE)


async def services_of(request: Request) -> Services:
    found: Services = request.app.state.services
    return found


@dataclass(frozen=True)
class Ticket:
    """The request's Idempotency-Key, and a hash by which a repeat is told from another request."""

    key: str | None
    request_hash: str


def hashed(request: Request, content: bytes) -> str:
    """sha256 over method, path, query and content."""
    parts = (
        request.method.encode(),
        root_path.route(request.scope).encode(),
        request.url.query.encode(),
        content,
    )
    return hashlib.sha256(b"\n".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()


KeyHeader = Header(
    alias="Idempotency-Key",
    description=(
        "Any unique text, for example a UUID: the same request with the same key is done once, and its first"
        " answer is given again for a day."
    ),
    json_schema_extra={"minLength": 1, "maxLength": 255, "pattern": "^[\\x21-\\x7e]+( +[\\x21-\\x7e]+)*$"},
)
PreferHeader = Header(
    alias="Prefer",
    description=(
        "`wait=N`: hold the answer back for up to N seconds (at most 30) until the job has ended (RFC 7240)."
    ),
)


async def ticket(request: Request, key: Annotated[str | None, KeyHeader] = None) -> Ticket:
    """The key, and a hash that white space and the order of fields do not change."""
    if key is not None and not KEY.match(key):
        raise bad_header("Idempotency-Key", "give 1 to 255 printable ASCII characters, for example a UUID")
    body = getattr(request.state, "body", b"")
    content = json.dumps(json.loads(body), sort_keys=True).encode() if body else b""
    return Ticket(key, hashed(request, content))


async def prefer_wait(prefer: Annotated[str | None, PreferHeader] = None) -> int:
    """Seconds that the client would wait for the job's end; 0 without the preference."""
    found = PREFER_WAIT.search(prefer or "")
    return min(MAX_WAIT, int(found[1])) if found else 0


def accepts(*media_types: str) -> Any:
    """A route's dependency: which of its media types the client prefers; 406 when none is acceptable."""

    async def choose(request: Request) -> str:
        return acceptable(request, *media_types)

    return Depends(choose)


def acceptable(request: Request, *media_types: str) -> str:
    """Which of the media types the client prefers; 406 when none is acceptable."""
    header = ",".join(request.headers.getlist("accept")) or "*/*"
    best, found = 0.0, ""
    for media_type in media_types:
        q = quality(header, media_type)
        if q > best:
            best, found = q, media_type
    if not found:
        raise Problem(
            "not_acceptable", f"This resource comes as {' or '.join(media_types)}: accept one of them."
        )
    return found


def quality(header: str, media_type: str) -> float:
    """The q of a media type under an Accept header: the most specific range that matches counts (RFC 9110,
    12.5.1).
    """
    rank, q = -1, 0.0
    for item in header.split(","):
        name, *parameters = (part.strip() for part in item.split(";"))
        specific = {media_type: 2, media_type.split("/")[0] + "/*": 1, "*/*": 0}.get(name.lower(), -1)
        if specific > rank:
            given = next((p[2:] for p in parameters if p.lower().startswith("q=")), "1")
            rank, q = specific, float(given) if re.fullmatch(r"[01](\.\d{0,3})?", given) else 1.0
    return q


JSON = "application/json"
ServicesDep = Annotated[Services, Depends(services_of)]
TicketDep = Annotated[Ticket, Depends(ticket)]
WaitDep = Annotated[int, Depends(prefer_wait)]
JobsReader = Annotated[Caller, need("jobs:read")]
JobsWriter = Annotated[Caller, need("jobs:write")]
ArtifactsReader = Annotated[Caller, need("artifacts:read")]
WebhooksWriter = Annotated[Caller, need("webhooks:write")]
Admin = Annotated[Caller, need("admin")]
Anyone = Annotated[Caller, need(None)]
JobId = uuid.UUID
DryRunQuery = Annotated[
    bool,
    Query(
        description=(
            "Check the request and answer 200 with its resolved spec; store nothing. Images and deltas that"
            " are still to be uploaded may be named 00000000-0000-0000-0000-000000000001 and so on."
        )
    ),
]
