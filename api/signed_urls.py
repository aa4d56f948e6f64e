"""Signed links to artifacts of a directory store: they expire, and work for GET and HEAD without an API key.

An S3 store signs its own links.
"""

import hashlib
import hmac
import re
import time
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple
from urllib.parse import parse_qs, urlencode

from starlette.types import Scope

from expunge.api import root_path
from expunge.store.server_secret import derive_key

MAX_LIFETIME = 15 * 60  # seconds
PATH = re.compile(r"^/artifacts/([0-9a-fA-F-]{32,36})/content$")
PARAMETERS = ("by", "expires", "sig")


class Link(NamedTuple):
    """What a link states. `by` is the id of the API key that asked for it; when that key ends, so does it."""

    artifact_id: uuid.UUID
    by: uuid.UUID
    expires: int
    sig: str


UNREADABLE = Link(uuid.UUID(int=0), uuid.UUID(int=0), 0, "")  # its signature is valid under no secret


def sign(secret: str, artifact_id: uuid.UUID, by: uuid.UUID, expires: int) -> str:
    """The signature: an HMAC-SHA256 of what the link states, in hex."""
    message = f"artifact link\n{artifact_id}\n{by}\n{expires}"
    return hmac.new(derive_key(secret, "links"), message.encode(), hashlib.sha256).hexdigest()


def create_link(secret: str, artifact_id: uuid.UUID, by: uuid.UUID, expires: datetime) -> str:
    """The path and query of a new link."""
    seconds = int(expires.timestamp())
    query = {"by": by, "expires": seconds, "sig": sign(secret, artifact_id, by, seconds)}
    return f"/artifacts/{artifact_id}/content?{urlencode(query)}"


def requested_link(scope: Scope) -> Link | None:
    """The link that a request uses, its signature not checked yet; None where it uses none."""
    found = PATH.match(root_path.route_path(scope))
    query = parse_qs(scope["query_string"].decode("latin-1"))
    if scope["method"] != "GET" or found is None or "sig" not in query:
        return None
    try:
        by, expires = uuid.UUID(query["by"][0]), int(query["expires"][0][:12])
        return Link(uuid.UUID(found[1]), by, expires, query["sig"][0])
    except (KeyError, ValueError):
        return UNREADABLE


def is_valid(link: Link, secret: str, older_secrets: Sequence[str] = ()) -> bool:
    """Whether this service signed the link, under its secret or an older one, and it has not expired."""
    # All are compared, so that the time taken does not tell which secret signed it
    matches = [
        hmac.compare_digest(sign(each, link.artifact_id, link.by, link.expires).encode(), link.sig.encode())
        for each in (secret, *older_secrets)
    ]
    return any(matches) and time.time() < link.expires


def expiry(lifetime_s: int) -> datetime:
    """When a link made now expires, to the second."""
    return datetime.fromtimestamp(int(time.time()) + lifetime_s, UTC)
