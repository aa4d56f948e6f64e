"""Conditional and partial downloads, as RFC 9110 has them: strong ETags, one byte range."""

import re
from typing import NamedTuple

from starlette.datastructures import Headers

from expunge.api.problems import Problem

ONE_RANGE = re.compile(r"^bytes=(\d*)-(\d*)$")


class Span(NamedTuple):
    """Bytes [start, stop) of `size`."""

    start: int
    stop: int
    size: int

    @property
    def partial(self) -> bool:
        return (self.start, self.stop) != (0, self.size)


def matches(header: str, etag: str) -> bool:
    """If-None-Match: weak comparison against a list of entity tags."""
    return header.strip() == "*" or any(tag.strip().removeprefix("W/") == etag for tag in header.split(","))


def unchanged(headers: Headers, etag: str) -> bool:
    """Whether the client's copy is current (304)."""
    return "if-none-match" in headers and matches(headers["if-none-match"], etag)


def span(headers: Headers, size: int, etag: str) -> tuple[Span, bool]:
    """Which bytes to send, and whether as 206.

    Several ranges, other units or a stale If-Range mean the whole.
    """
    whole = Span(0, size, size), False
    if "range" not in headers or ("if-range" in headers and headers["if-range"].strip() != etag):
        return whole
    found = ONE_RANGE.match(headers["range"].replace(" ", ""))
    if not found or (not found[1] and not found[2]):
        return whole
    if found[1]:
        start, stop = int(found[1][:20]), min(int(found[2][:20]) + 1 if found[2] else size, size)
        if found[2] and int(found[2][:20]) < start:
            return whole
    else:
        start, stop = max(0, size - int(found[2][:20])), size
    if start >= size or stop <= start:
        raise Problem(
            "range_not_satisfiable",
            f"The artifact has {size} bytes.",
            headers={"Content-Range": f"bytes */{size}"},
        )
    return Span(start, stop, size), True
