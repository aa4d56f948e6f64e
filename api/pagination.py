"""Opaque keyset cursors: a page starts after a row, so inserts neither repeat nor skip one."""

import base64
import json
import uuid
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Annotated, Protocol, TypeVar

from fastapi import Query

from expunge.api.problems import invalid

MAX_PAGE = 200
Cursor = Annotated[str | None, Query(max_length=300, description="`next_cursor` of the page before.")]
Row = TypeVar("Row")


class Placed(Protocol):
    """What a page is ordered by."""

    @property
    def created_at(self) -> datetime: ...
    @property
    def id(self) -> uuid.UUID: ...


def cut(rows: Sequence[Row], limit: int, place: Callable[[Row], Placed]) -> tuple[Sequence[Row], str | None]:
    """The page's rows and the cursor of the next page; `rows` was asked for with one more than the limit,
    which tells whether there is one.
    """
    page = rows[:limit]
    if len(rows) <= limit:
        return page, None
    last = place(page[-1])
    return page, encode(last.created_at, last.id)


def encode(created_at: datetime, id_: uuid.UUID) -> str:
    return (
        base64.urlsafe_b64encode(json.dumps([created_at.isoformat(), str(id_)]).encode()).decode().rstrip("=")
    )


def decode(cursor: str | None) -> tuple[datetime, uuid.UUID] | None:
    """Where a page begins; None for the first."""
    if not cursor:
        return None
    try:
        created_at, id_ = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        moment = datetime.fromisoformat(created_at)
        if moment.tzinfo is None:
            raise ValueError("no time zone")
        return moment, uuid.UUID(id_)
    except (ValueError, TypeError, AttributeError) as error:
        raise invalid(
            "query.cursor",
            "is not a cursor of this service",
            "take 'next_cursor' of the page before, or omit it",
        ) from error
