"""Stored bytes that are to be deleted.

Their keys are written in the transaction that gives up their row, so that a process that dies between that
commit and the deletion leaves nothing behind for good.
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
    """Schedule the deletion of these keys: from the commit on, it may happen at any time."""
    if keys:
        session.execute(insert(Deletion).on_conflict_do_nothing(), [{"key": key} for key in keys])


def delete_scheduled(url: str, blobs: Blobs) -> int:
    """Delete the bytes of all scheduled keys, in batches, and return how many.

    A store that does not answer ends this with its error; the keys stay scheduled.
    """
    deleted = 0
    while True:
        with db.transaction(url) as session:
            keys = session.scalars(select(Deletion.key).limit(BATCH)).all()
        if not keys:
            return deleted
        blobs.delete(list(keys))
        with db.transaction(url) as session:
            session.execute(
                delete(Deletion).where(Deletion.key.in_(keys)),
                execution_options={"synchronize_session": False},
            )
        deleted += len(keys)
