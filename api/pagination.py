"""Opaque keyset cursors: a page starts after a given row, so inserts neither repeat nor skip rows."""

import base64
import json
import uuid
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Annotated, Protocol, TypeVar

from fastapi import Query

from expunge.api.problems import invalid

MAX_PAGE = 200
Cursor = Annotated[
    str | None,
    Query(max_length=300, description="`next_cursor` of the previous page; omit for the first."),
]
Row = TypeVar("Row")


class Sortable(Protocol):
    """A row of a table that is paged by age."""

    @property
    def created_at(self) -> datetime: ...
    @property
    def id(self) -> uuid.UUID: ...


def split_page(
    rows: Sequence[Row], limit: int, sorted_by: Callable[[Row], Sortable]
) -> tuple[Sequence[Row], str | None]:
    """The page's rows, and the cursor of the next page or None.

    `rows` are `limit + 1` rows at most: the extra one tells that there is a next page. `sorted_by` gets the
    row that they are sorted by.
    """
    page = rows[:limit]
    if len(rows) <= limit:
        return page, None
    last = sorted_by(page[-1])
    return page, encode_cursor(last.created_at, last.id)


def encode_cursor(created_at: datetime, id_: uuid.UUID) -> str:
    text = json.dumps([created_at.isoformat(), str(id_)])
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decode_cursor(cursor: str | None) -> tuple[datetime, uuid.UUID] | None:
    """The row after which the page starts; None for the first page.

    Raises: Problem `invalid_request` where it is not a cursor of this service.
    """
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
            "use 'next_cursor' of the previous page, or omit it",
        ) from error
