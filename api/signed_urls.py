"""Links to the artifacts of a directory store: signed, expiring, for GET and HEAD, good without an API key.

(S3 signs its own.)
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

LONGEST = 15 * 60  # seconds
PATH = re.compile(r"^/artifacts/([0-9a-fA-F-]{32,36})/content$")
PARAMETERS = ("by", "expires", "sig")


class Link(NamedTuple):
    """What a link says; `by` is the id of the API key that asked for it, with whose end it ends."""

    artifact_id: uuid.UUID
    by: uuid.UUID
    expires: int
    sig: str


def sign(secret: str, artifact_id: uuid.UUID, by: uuid.UUID, expires: int) -> str:
    return hmac.new(
        derive_key(secret, "links"), f"artifact link\n{artifact_id}\n{by}\n{expires}".encode(), hashlib.sha256
    ).hexdigest()


def make(secret: str, artifact_id: uuid.UUID, by: uuid.UUID, expires: datetime) -> str:
    """Path and query."""
    until = int(expires.timestamp())
    return f"/artifacts/{artifact_id}/content?" + urlencode(
        {"by": by, "expires": until, "sig": sign(secret, artifact_id, by, until)}
    )


def asked(scope: Scope) -> Link | None:
    """The link that a request follows, whoever signed it; None when it follows none."""
    found, query = PATH.match(root_path.route(scope)), parse_qs(scope["query_string"].decode("latin-1"))
    if scope["method"] != "GET" or found is None or "sig" not in query:
        return None
    try:
        return Link(
            uuid.UUID(found[1]), uuid.UUID(query["by"][0]), int(query["expires"][0][:12]), query["sig"][0]
        )
    except (KeyError, ValueError):
        return Link(uuid.UUID(int=0), uuid.UUID(int=0), 0, "")  # which no secret has signed


def good(link: Link, secret: str, older: Sequence[str] = ()) -> bool:
    """Signed by this service, under this secret or an older one, and not yet expired."""
    own = (sign(each, link.artifact_id, link.by, link.expires) for each in (secret, *older))
    return (
        any([hmac.compare_digest(each.encode(), link.sig.encode()) for each in own])
        and time.time() < link.expires
    )


def until(seconds: int) -> datetime:
    return datetime.fromtimestamp(int(time.time()) + seconds, UTC)
