"""Indices made and dropped beside the work: writers go on meanwhile.

To be called in revisions that do nothing else, as each is a transaction of its own.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from alembic import op
from sqlalchemy import text
from sqlalchemy.sql.elements import ColumnElement, TextClause

BROKEN = text("select exists (select from pg_index where indexrelid = to_regclass(:name) and not indisvalid)")


@contextmanager
def beside() -> Iterator[None]:
    """Outside a transaction. It waits for those under way as long as they take, which holds up nobody."""
    with op.get_context().autocommit_block():
        op.execute("set lock_timeout = 0")
        try:
            yield
        finally:
            op.execute("reset lock_timeout")


def create(
    name: str, table: str, columns: Sequence[str | TextClause | ColumnElement], where: str | None = None
) -> None:
    """An index that is there whole or, after an upgrade that was broken off, made anew."""
    with beside():
        if op.get_bind().execute(BROKEN, {"name": name}).scalar_one():
            op.drop_index(name, table_name=table, postgresql_concurrently=True)
        given = {} if where is None else {"postgresql_where": text(where)}
        op.create_index(name, table, list(columns), postgresql_concurrently=True, if_not_exists=True, **given)


def drop(name: str, table: str) -> None:
    with beside():
        op.drop_index(name, table_name=table, postgresql_concurrently=True, if_exists=True)
