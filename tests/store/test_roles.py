"""What the service's role may do in PostgreSQL: read and write rows, add to the audit, and nothing else."""

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator

import psycopg
import pytest
from sqlalchemy.engine import make_url

from expunge.store import audit, db, keys, migrate, roles

SECRET = "0123456789abcdef" * 4
FORBIDDEN = (
    "update audit set action = 'x'",
    "delete from audit",
    "truncate audit",
    "delete from artifact_reads",
    "set session_replication_role = replica",
    "alter table audit disable trigger all",
    "drop trigger append_only_rows on audit",
    "create or replace function append_only() returns trigger as '' language plpgsql",
    "copy (select 1) to program 'true'",
    "copy jobs from program 'true'",
    "copy jobs to '/tmp/x'",
    "select pg_read_file('/etc/passwd')",
    "select lo_import('/etc/passwd')",
    "create table x (y int)",
    "create temporary table x (y int)",
    "create schema x",
    "create function x() returns int language sql as 'select 1'",
    "alter table jobs add column x int",
    "drop table jobs",
    "truncate jobs",
    "create index on jobs (id)",
    "create role x",
    "alter role current_user superuser",
    "update alembic_version set version_num = 'x'",
    "alter system set log_statement = 'all'",
    "set role postgres",
)


@pytest.fixture
def fresh(postgres_url: str) -> Iterator[tuple[str, str]]:
    """(owner's URL, service's URL) of an empty database of this test's own, and of a role that is not there
    yet.
    """
    name, role = (f"{what}_{uuid.uuid4().hex[:8]}" for what in ("roles", "service"))
    with psycopg.connect(postgres_url, autocommit=True) as server:
        server.execute(f"create database {name}")
        owner = make_url(postgres_url).set(database=name)
        yield (
            owner.render_as_string(hide_password=False),
            owner.set(username=role, password="it's-quoted").render_as_string(hide_password=False),
        )
        server.execute(f"drop database {name} with (force)")
        server.execute(f"drop role if exists {role}")


def command(module: str, owner: str, service: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "EXPUNGE_MIGRATION_DATABASE_URL": owner, "EXPUNGE_DATABASE_URL": service}
    return subprocess.run([sys.executable, "-m", module], env=environment, capture_output=True, text=True)


@pytest.fixture
def service(settings) -> Iterator[psycopg.Connection]:
    """A connection as the services under test have it."""
    with psycopg.connect(
        db.psycopg_url(settings.database_url.get_secret_value()), autocommit=True
    ) as connection:
        yield connection


@pytest.mark.parametrize("statement", FORBIDDEN)
def test_the_service_s_role_is_refused(statement: str, service, session, tenant):
    keys.create(session, SECRET, tenant.id, name="a")
    session.commit()
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        service.execute(statement)
    assert len(audit.list_entries(session, tenant.id)) == 1


def test_the_service_s_role_is_no_superuser_and_owns_nothing(service):
    facts = service.execute(
        "select rolsuper, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls from pg_roles where"
        " rolname = current_user"
    )
    assert facts.fetchone() == (False,) * 5
    owned = service.execute("select relname from pg_class where relowner = current_user::regrole").fetchall()
    assert owned == []
    assert service.execute(
        "select count(*) from pg_auth_members where member = current_user::regrole"
    ).fetchone() == (0,)


def test_the_service_s_role_may_read_write_and_delete_in_every_other_table(service):
    tables = [name for (name,) in service.execute(roles.TABLES)]
    grown = {name for (name,) in service.execute(roles.APPEND_ONLY)}
    assert grown >= {"audit", "artifact_reads"}
    for table in set(tables) - grown - {"alembic_version"}:
        may = service.execute(
            "select has_table_privilege(current_user, %s, 'select, insert, update, delete')", [table]
        ).fetchone()
        every = [
            service.execute("select has_table_privilege(current_user, %s, %s)", [table, right]).fetchone()
            for right in ("select", "insert", "update", "delete")
        ]
        assert (may, every) == ((True,), [(True,)] * 4), table


def test_the_migration_makes_the_role_and_renews_its_rights(fresh):
    owner, service = fresh
    done = command("expunge.store.migrate", owner, service)
    assert done.returncode == 0, done.stderr
    with psycopg.connect(service, autocommit=True) as connection:
        assert connection.execute("select count(*) from jobs").fetchone() == (0,)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("delete from audit")
    with psycopg.connect(owner, autocommit=True) as connection:  # what a later migration makes
        connection.execute("create table later (id bigint generated always as identity, what text)")
        connection.execute("create table trail (id int)")
        connection.execute(
            "create trigger append_only_rows before update or delete on trail for each row execute function"
            " append_only()"
        )
    with psycopg.connect(service, autocommit=True) as connection:
        connection.execute("insert into later (what) values ('x')")
        connection.execute("delete from later")
    assert command("expunge.store.roles", owner, service).returncode == 0
    with psycopg.connect(service, autocommit=True) as connection:
        connection.execute("insert into trail values (1)")
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="permission denied"):
            connection.execute("delete from trail")


def test_the_role_s_password_follows_the_url(fresh):
    owner, service = fresh
    migrate.upgrade(owner)
    roles.grant(owner, service)
    other = make_url(service).set(password="another").render_as_string(hide_password=False)
    roles.grant(owner, other)
    with psycopg.connect(other) as connection:
        connection.execute("select from jobs")
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(service)


@pytest.mark.parametrize("fault", ["superuser", "owner", "database", "member", "program", "no user"])
def test_a_role_that_could_do_more_is_refused_by_name(fresh, fault: str):
    owner, service = fresh
    role = make_url(service).username
    migrate.upgrade(owner)
    with psycopg.connect(owner, autocommit=True) as connection:
        connection.execute(
            f"create role {role} login {'superuser' if fault == 'superuser' else ''} password 'own'"
        )
        if fault == "owner":
            connection.execute(f"alter table jobs owner to {role}")
        if fault == "database":
            connection.execute(f"alter database {make_url(owner).database} owner to {role}")
        if fault in ("member", "program"):
            connection.execute(
                f"grant {'pg_execute_server_program' if fault == 'program' else make_url(owner).username} to"
                f" {role}"
            )
    if fault == "no user":
        service = "postgresql://" + owner.partition("@")[2]
    done = command("expunge.store.roles", owner, service)
    assert done.returncode == 1
    why = {
        "superuser": "is a superuser",
        "owner": "owns tables",
        "database": "owns the database",
        "no user": "has no user",
    }
    assert why.get(fault, "belongs to a role that may do more") in done.stderr
    assert "Traceback" not in done.stderr
    with psycopg.connect(owner, autocommit=True) as connection:
        connection.execute(f"reassign owned by {role} to current_user")
        connection.execute(f"drop owned by {role}")


def test_an_owner_that_may_make_no_roles_grants_to_one_that_is_there(fresh, postgres_url):
    owner, service = fresh
    role, plain = make_url(service).username, f"owner_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(owner, autocommit=True) as connection:
        connection.execute(f"create role {plain} login password 'own'")
        connection.execute(f"alter schema public owner to {plain}")
    theirs = make_url(owner).set(username=plain, password="own").render_as_string(hide_password=False)
    migrate.upgrade(theirs)
    with pytest.raises(roles.RoleError, match=f"there is no role '{role}'"):
        roles.grant(theirs, service)
    with psycopg.connect(owner, autocommit=True) as connection:
        connection.execute(f"create role {role} login password 'own'")
    roles.grant(theirs, make_url(service).set(password="own").render_as_string(hide_password=False))
    with psycopg.connect(
        make_url(service).set(password="own").render_as_string(hide_password=False)
    ) as connection:
        connection.execute("select from jobs")
    with psycopg.connect(owner, autocommit=True) as connection:
        connection.execute(f"drop owned by {role}, {plain} cascade")
        connection.execute(f"drop role {plain}")
