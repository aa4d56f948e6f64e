"""Migrations on a database of their own."""

import uuid

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


def test_the_way_back_leaves_nothing_that_the_release_before_has_no_word_for(empty_database):
    migrate.upgrade(empty_database)
    tenant, job, artifact, hook = (uuid.uuid4() for _ in range(4))
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute("insert into tenants (id, name) values (%s, 'a')", [tenant])
        connection.execute(
            "insert into jobs (id, tenant_id, kind, spec) values (%s, %s, 'erase', '{}')", [job, tenant]
        )
        connection.execute(
            "insert into artifacts (id, tenant_id, job_id, name, media_type, size, sha256, key, info)"
            """ values (%s, %s, %s, 'a', 'b', 1, 'c', 'd', '{"withheld": true}')""",
            [artifact, tenant, job],
        )
        connection.execute(
            "insert into webhooks (id, tenant_id, url, sealed, events)"
            " values (%s, %s, 'u', 's', '{job.failed,artifact.verdict_changed}')",
            [hook, tenant],
        )
        connection.execute(
            "insert into webhook_deliveries (id, webhook_id, event, body)"
            " values (%s, %s, 'artifact.verdict_changed', '{}')",
            [uuid.uuid4(), hook],
        )
        with pytest.raises(RuntimeError, match="1 artifacts are withheld"):
            migrate.downgrade(empty_database, "ended_index")
        connection.execute("update artifacts set expired_at = now()")
        migrate.downgrade(empty_database, "ended_index")
        assert connection.execute("select events from webhooks").fetchall() == [(["job.failed"],)]
        assert connection.execute("select count(*) from webhook_deliveries").fetchone() == (0,)
