"""Migrations on a database of their own."""

import psycopg
import pytest
from sqlalchemy.engine import make_url

from expunge.store import migrate


@pytest.fixture
def empty_database(postgres_url):
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("create database migrations_test")
        yield make_url(postgres_url).set(database="migrations_test").render_as_string(hide_password=False)
        connection.execute("drop database migrations_test with (force)")


def tables(url: str) -> set[str]:
    with psycopg.connect(url) as connection:
        rows = connection.execute(
            "select table_name from information_schema.tables where table_schema = 'public'"
        ).fetchall()
    return {row[0] for row in rows}


def test_up_down_up_leaves_no_drift(empty_database):
    migrate.upgrade(empty_database)
    assert {"jobs", "events", "idempotency", "artifacts", "checkpoints", "tenants", "api_keys"} < tables(
        empty_database
    )
    migrate.downgrade(empty_database)
    assert tables(empty_database) == {"alembic_version"}
    migrate.upgrade(empty_database)
    migrate.check(empty_database)


def test_upgrading_twice_changes_nothing(empty_database):
    migrate.upgrade(empty_database)
    migrate.upgrade(empty_database)
    migrate.check(empty_database)
