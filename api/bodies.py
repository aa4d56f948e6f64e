"""Read and vet a request body before anything parses it: size, media type, strict JSON."""

import json
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.problems import Problem

MAX_BODY = 64 * 1024  # bytes
MAX_DEPTH = 32
STREAMED = ("/artifacts",)  # uploads bound and read their own bodies


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse an object that names a key twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key '{twice[:100]}' is there twice")
    return found


def refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON: give a finite number")


def depth(text: str) -> int:
    """How deep arrays and objects nest, strings aside."""
    deepest = level = 0
    inside = escaped = False
    for char in text:
        if inside:
            inside = escaped or char != '"'
            escaped = char == "\\" and not escaped
        elif char == '"':
            inside = True
        elif char in "[{":
            level += 1
            deepest = max(deepest, level)
        elif char in "]}":
            level -= 1
    return deepest


def vet(body: bytes) -> None:
    """Refuse what is not strict, flat JSON in UTF-8."""
    try:
        text = body.decode()
        if depth(text) > MAX_DEPTH:
            raise ValueError(f"it nests deeper than {MAX_DEPTH} levels")
        value = json.loads(text, object_pairs_hook=unique, parse_constant=refuse)
        json.dumps(value, ensure_ascii=False).encode()  # an unpaired surrogate cannot be stored nor answered
    except (ValueError, RecursionError) as error:
        raise Problem("malformed_request", f"The body is not usable JSON: {error}.") from error


async def read(receive: Receive, limit: int) -> bytes:
    """The whole body, at most `limit` bytes."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Problem("malformed_request", "The body ended early.")
        body += message.get("body", b"")
        if len(body) > limit:
            raise Problem("payload_too_large", f"A JSON body has at most {limit} bytes.")
        if not message.get("more_body", False):
            return bytes(body)


class Bodies:
    """ASGI middleware: hands on a body that is small, strict JSON, or empty."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (coding := Headers(scope=scope).get("content-encoding", "identity").lower()) != "identity":
            raise Problem(
                "unsupported_media_type", f"The body's Content-Encoding '{coding[:40]}' is not read: send it as it is, without one."
            )
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD", "OPTIONS") or scope["path"] in STREAMED:
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if headers.get("content-length", "0").isdecimal() and int(headers.get("content-length", "0")) > MAX_BODY:
            raise Problem("payload_too_large", f"A JSON body has at most {MAX_BODY} bytes.")
        body = await read(receive, MAX_BODY)
        if body:
            media_type = headers.get("content-type", "").split(";")[0].strip().lower()
            if media_type != "application/json":
                raise Problem(
                    "unsupported_media_type",
                    "Send JSON with 'Content-Type: application/json'.",
                    headers={"Accept-Post": "application/json"},
                )
            vet(body)
        scope.setdefault("state", {})["body"] = body
        sent = False

        async def replay() -> Message:
            nonlocal sent
            if sent:
                return await receive()
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self.app(scope, replay, send)
