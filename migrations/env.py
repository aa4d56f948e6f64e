"""How Alembic reaches the database while API and workers go on: each revision is a transaction of its own,
and none waits long for a lock.

A statement that waits for a table's lock makes everybody after it wait too. So it gives up after a moment,
sooner than PostgreSQL looks for deadlocks (a second), and the revision begins again. Indices are made in
revisions of their own (migrations/indices.py), beside the work; one that changes several tables takes them in
the order in which the work does (migrations/tables.py).
"""

import random
import time

from alembic import context
from psycopg.errors import DeadlockDetected, LockNotAvailable
from sqlalchemy import Connection, create_engine, pool, text
from sqlalchemy.exc import OperationalError

from expunge.store.db import sqlalchemy_url
from expunge.store.models import Base
from expunge.store.settings import Settings

PATIENCE = 900  # seconds for all the beginnings, in which whoever holds a lock has to give way
OPTIONS = "-c timezone=UTC -c lock_timeout=250ms"

url = context.config.get_main_option("sqlalchemy.url") or sqlalchemy_url(
    Settings().database_url.get_secret_value()
)
engine = create_engine(url, poolclass=pool.NullPool, connect_args={"options": OPTIONS})


def alone(connection: Connection) -> None:
    """Until no other upgrade is at work.

    Asked again and again: to wait in a transaction would hold up the other's indices.
    """
    while not connection.execute(
        text("select pg_try_advisory_lock(hashtextextended('expunge:migrate', 0))")
    ).scalar_one():
        connection.rollback()
        time.sleep(0.2)
    connection.commit()


def run(connection: Connection) -> None:
    end = time.monotonic() + PATIENCE
    while True:
        try:
            context.run_migrations()
            return
        except OperationalError as error:
            connection.rollback()
            if not isinstance(error.orig, LockNotAvailable | DeadlockDetected) or time.monotonic() > end:
                raise
            time.sleep(random.uniform(0.2, 1))


with engine.connect() as connection:
    alone(connection)
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        compare_type=True,
        compare_server_default=True,
        transaction_per_migration=True,
    )
    run(connection)
    connection.commit()
