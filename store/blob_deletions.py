"""Bytes that are to be deleted: noted in the transaction that takes their row away, so that a kill between
the commit and the deletion leaves work, not bytes.
"""

from collections.abc import Sequence

from sqlalchemy import delete, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from expunge.store import db
from expunge.store.blobs import Blobs
from expunge.store.models import Deletion

BATCH = 500


def schedule(session: Session, keys: Sequence[str]) -> None:
    """From the commit on, these may be deleted at any time."""
    if keys:
        session.execute(insert(Deletion).on_conflict_do_nothing(), [{"key": key} for key in keys])


def delete_scheduled(url: str, blobs: Blobs) -> int:
    """Delete all that is noted, some at a time; how many. What a store that is away keeps is still noted."""
    gone = 0
    while True:
        with db.transaction(url) as session:
            keys = session.scalars(select(Deletion.key).limit(BATCH)).all()
        if not keys:
            return gone
        blobs.delete(list(keys))
        with db.transaction(url) as session:
            session.execute(
                delete(Deletion).where(Deletion.key.in_(keys)),
                execution_options={"synchronize_session": False},
            )
        gone += len(keys)
