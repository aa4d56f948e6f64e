"""Read and vet a request body before anything parses it: size, media type, strict JSON."""

import codecs
import json
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from expunge.api import root_path
from expunge.api.problems import FieldError, Problem

MAX_BODY = 64 * 1024  # bytes
MAX_DEPTH = 32
MAX_DIGITS = 1000
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


def whole(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a number in it has {len(digits)} digits, at most {MAX_DIGITS} are read")
    return int(digits)


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


def utf8(body: bytes) -> bytes:
    """The body without the mark that some editors put before UTF-8. Problem: it is in another encoding."""
    encoding = json.detect_encoding(body)
    try:
        if not encoding.startswith("utf-8"):
            raise ValueError
        body.decode()
    except ValueError as error:
        found = encoding.upper().removesuffix("-SIG") if not encoding.startswith("utf-8") else "not UTF-8"
        raise Problem(
            "malformed_request", f"The body is {found}: save it as UTF-8 and send it again."
        ) from error
    return body.removeprefix(codecs.BOM_UTF8)


def vet(body: bytes) -> None:
    """Refuse what is not strict, flat JSON."""
    try:
        text = body.decode()
        if depth(text) > MAX_DEPTH:
            raise ValueError(f"it nests deeper than {MAX_DEPTH} levels")
        value = json.loads(text, object_pairs_hook=unique, parse_constant=refuse, parse_int=whole)
        json.dumps(value, ensure_ascii=False).encode()  # an unpaired surrogate cannot be stored nor answered
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise Problem(
            "malformed_request", f"The body is no JSON from {where} on ({error.msg}): correct it there."
        ) from error
    except UnicodeEncodeError as error:
        half = (
            f"a text in it holds half of a surrogate pair, \\u{ord(error.object[error.start]):04x}: write the"
            " whole character"
        )
        raise Problem("malformed_request", f"The body is not usable JSON: {half}.") from error
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


def plain(headers: Headers) -> None:
    """Nothing here unpacks a body. Problem: it is packed."""
    packed = [
        name.strip()
        for name in ",".join(headers.getlist("content-encoding")).split(",")
        if name.strip().lower() not in ("", "identity")
    ]
    if packed:
        detail = (
            f"A body in Content-Encoding '{packed[0][:50]}' is not read: send it as it is, without that"
            " header."
        )
        error = FieldError(
            field="header.Content-Encoding",
            message=f"is '{packed[0][:50]}'",
            remedy="send the body uncompressed",
        )
        raise Problem(
            "unsupported_media_type", detail, errors=[error], headers={"Accept-Encoding": "identity"}
        )


class Bodies:
    """ASGI middleware: hands on a body that is small, strict JSON, or empty."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in ("GET", "OPTIONS"):
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        plain(headers)
        if root_path.route(scope) in STREAMED:
            await self.app(scope, receive, send)
            return
        if (
            headers.get("content-length", "0").isdecimal()
            and int(headers.get("content-length", "0")) > MAX_BODY
        ):
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
            body = utf8(body)
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
