"""Conditional and partial downloads (RFC 9110): strong ETags, If-None-Match, one byte range, If-Range."""

import re
from typing import NamedTuple

from starlette.datastructures import Headers

from expunge.api.problems import Problem

ONE_RANGE = re.compile(r"^bytes=(\d*)-(\d*)$")
MAX_DIGITS = 20  # digits that are read of a position: more are beyond any file's end


class ByteRange(NamedTuple):
    """Bytes [start, stop)."""

    start: int
    stop: int


def etag_of(sha256: str) -> str:
    """The strong entity tag of content: its sha256, in quotes."""
    return f'"{sha256}"'


def is_current(headers: Headers, etag: str) -> bool:
    """Whether the client's copy is current, by If-None-Match with weak comparison: answer 304."""
    if "if-none-match" not in headers:
        return False
    tags = headers["if-none-match"]
    return tags.strip() == "*" or any(tag.strip().removeprefix("W/") == etag for tag in tags.split(","))


def requested_range(headers: Headers, size: int, etag: str) -> ByteRange | None:
    """The byte range to answer with, as 206; None for the whole content, as 200.

    Several ranges, other units and an If-Range that does not match all mean the whole content.
    Raises: Problem `range_not_satisfiable` where the range lies outside the content.
    """
    if "range" not in headers or ("if-range" in headers and headers["if-range"].strip() != etag):
        return None
    found = ONE_RANGE.match(headers["range"].replace(" ", ""))
    if not found or (not found[1] and not found[2]):
        return None
    first, last = (int(digits[:MAX_DIGITS]) if digits else None for digits in found.groups())
    if first is None:  # the last bytes: -500
        start, stop = max(0, size - (last or 0)), size
    elif last is None:  # from a position on: 500-
        start, stop = first, size
    elif last < first:
        return None
    else:
        start, stop = first, min(last + 1, size)
    if start >= size or stop <= start:
        raise Problem(
            "range_not_satisfiable",
            f"The artifact has {size} bytes.",
            headers={"Content-Range": f"bytes */{size}"},
        )
    return ByteRange(start, stop)
