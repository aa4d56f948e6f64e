"""Read and check a request's body before anything parses it: size, media type, strict JSON."""

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
STREAMED = ("/artifacts",)  # uploads read their own body, with a limit of their own


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object's members as a dict.

    Raises: ValueError where a key is given twice.
    """
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key '{key[:100]}' is given twice")
        found[key] = value
    return found


def refuse_constant(constant: str) -> Any:
    """Raises: ValueError for NaN and Infinity, which Python's parser would read."""
    raise ValueError(f"{constant} is not JSON: give a finite number")


def parse_integer(digits: str) -> int:
    """Raises: ValueError for an integer of more than MAX_DIGITS digits."""
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a number in it has {len(digits)} digits; at most {MAX_DIGITS} are allowed")
    return int(digits)


def nesting_depth(text: str) -> int:
    """How deep arrays and objects nest, ignoring brackets in strings."""
    deepest = level = 0
    in_string = escaped = False
    for char in text:
        if in_string:
            in_string = escaped or char != '"'
            escaped = char == "\\" and not escaped
        elif char == '"':
            in_string = True
        elif char in "[{":
            level += 1
            deepest = max(deepest, level)
        elif char in "]}":
            level -= 1
    return deepest


def check_utf8(body: bytes) -> bytes:
    """The body without a byte order mark.

    Raises: Problem `malformed_request` where the body is not UTF-8.
    """
    encoding = json.detect_encoding(body)
    try:
        if not encoding.startswith("utf-8"):
            raise ValueError
        body.decode()
    except ValueError as error:
        found = encoding.upper().removesuffix("-SIG") if not encoding.startswith("utf-8") else "not UTF-8"
        raise Problem("malformed_request", f"The body is {found}: encode it as UTF-8.") from error
    return body.removeprefix(codecs.BOM_UTF8)


def check_json(body: bytes) -> None:
    """Check that the body is strict JSON that does not nest too deeply.

    Raises: Problem `malformed_request`.
    """
    try:
        text = body.decode()
        if nesting_depth(text) > MAX_DEPTH:
            raise ValueError(f"it nests deeper than {MAX_DEPTH} levels")
        value = json.loads(
            text, object_pairs_hook=unique_keys, parse_constant=refuse_constant, parse_int=parse_integer
        )
        json.dumps(value, ensure_ascii=False).encode()  # fails for an unpaired surrogate
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise Problem(
            "malformed_request", f"The body is not valid JSON: {error.msg} at {where}. Correct it there."
        ) from error
    except UnicodeEncodeError as error:
        surrogate = f"\\u{ord(error.object[error.start]):04x}"
        raise Problem(
            "malformed_request",
            f"The body is not usable JSON: a string contains the unpaired surrogate {surrogate}. Write the"
            " whole character.",
        ) from error
    except (ValueError, RecursionError) as error:
        raise Problem("malformed_request", f"The body is not usable JSON: {error}.") from error


def too_large() -> Problem:
    return Problem("payload_too_large", f"A JSON body may have at most {MAX_BODY} bytes.")


async def read_body(receive: Receive) -> bytes:
    """The whole body.

    Raises: Problem `payload_too_large`; `malformed_request` where the client disconnected.
    """
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Problem("malformed_request", "The body ended early.")
        body += message.get("body", b"")
        if len(body) > MAX_BODY:
            raise too_large()
        if not message.get("more_body", False):
            return bytes(body)


def check_not_compressed(headers: Headers) -> None:
    """Raises: Problem `unsupported_media_type` for a compressed body, as nothing here decompresses one."""
    encodings = [name.strip() for name in ",".join(headers.getlist("content-encoding")).split(",")]
    compressed = [name for name in encodings if name.lower() not in ("", "identity")]
    if compressed:
        name = compressed[0][:50]
        error = FieldError(
            field="header.Content-Encoding",
            message=f"'{name}' is not supported",
            remedy="send the body uncompressed, without this header",
        )
        raise Problem(
            "unsupported_media_type",
            f"Content-Encoding '{name}' is not supported: send the body uncompressed, without this header.",
            errors=[error],
            headers={"Accept-Encoding": "identity"},
        )


class BodyLimit:
    """ASGI middleware: passes on a body that is empty, or small and strict JSON; the route gets it whole."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in ("GET", "OPTIONS"):
            await self.app(scope, receive, send)
            return

        # Refuse by its head what need not be read.
        headers = Headers(scope=scope)
        check_not_compressed(headers)
        if root_path.route_path(scope) in STREAMED:
            await self.app(scope, receive, send)
            return
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > MAX_BODY:
            raise too_large()

        # Read it whole, once, and check it.
        body = await read_body(receive)
        if body:
            media_type = headers.get("content-type", "").split(";")[0].strip().lower()
            if media_type != "application/json":
                raise Problem(
                    "unsupported_media_type",
                    "Send JSON with 'Content-Type: application/json'.",
                    headers={"Accept-Post": "application/json"},
                )
            body = check_utf8(body)
            check_json(body)

        # Whoever reads it next gets these bytes.
        scope.setdefault("state", {})["body"] = body
        replayed = False

        async def replay() -> Message:
            nonlocal replayed
            if replayed:
                return await receive()
            replayed = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self.app(scope, replay, send)
