"""For revisions that change more than one table that is there."""

from alembic import op


def hold() -> None:
    """Lock `jobs` before any other table, as whoever works does: two orders would be a deadlock.

    Held for this revision, which therefore must be short.
    """
    op.execute("lock table jobs")
