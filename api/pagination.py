"""Opaque keyset cursors: a page starts after a row, so inserts neither repeat nor skip one."""

import base64
import json
import uuid
from datetime import datetime

from api.problems import invalid

MAX_PAGE = 200


def encode(created_at: datetime, id_: uuid.UUID) -> str:
    return base64.urlsafe_b64encode(json.dumps([created_at.isoformat(), str(id_)]).encode()).decode().rstrip("=")


def decode(cursor: str) -> tuple[datetime, uuid.UUID]:
    try:
        created_at, id_ = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        moment = datetime.fromisoformat(created_at)
        if moment.tzinfo is None:
            raise ValueError("no time zone")
        return moment, uuid.UUID(id_)
    except (ValueError, TypeError, AttributeError) as error:
        raise invalid("query.cursor", "is not a cursor of this service", "take 'next_cursor' of the page before, or omit it") from error
