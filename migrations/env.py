"""How Alembic reaches the database: one transaction, guarded so that two upgrades at once follow one another."""

from alembic import context
from sqlalchemy import create_engine, pool, text

from store.db import sqlalchemy_url
from store.models import Base
from store.settings import Settings

url = context.config.get_main_option("sqlalchemy.url") or sqlalchemy_url(Settings().database_url.get_secret_value())
engine = create_engine(url, poolclass=pool.NullPool, connect_args={"options": "-c timezone=UTC -c lock_timeout=30s"})

with engine.connect() as connection:
    context.configure(connection=connection, target_metadata=Base.metadata, compare_type=True, compare_server_default=True)
    with context.begin_transaction():
        connection.execute(text("select pg_advisory_xact_lock(hashtextextended('expunge:migrate', 0))"))
        if connection.execute(text("select to_regclass('jobs') is not null")).scalar_one():
            connection.execute(text("lock table jobs"))  # first, as whoever works meanwhile does: two orders would be a deadlock
        context.run_migrations()
