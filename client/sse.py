"""Server-sent events from an iterator of lines (WHATWG HTML, section 9.2.6)."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple


class Message(NamedTuple):
    """One dispatched event."""

    event: str
    data: str
    id: str


def messages(lines: Iterable[str]) -> Iterator[Message]:
    """Messages with data; comments (heartbeats) and an unfinished last message are dropped."""
    event, data, last = "message", list[str](), ""
    for line in lines:
        if not line:
            if data:
                yield Message(event, "\n".join(data), last)
            event, data = "message", []
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            data.append(value)
        elif name == "event":
            event = value
        elif name == "id" and "\0" not in value:
            last = value
