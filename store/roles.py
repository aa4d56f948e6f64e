"""The PostgreSQL role of API, loops and workers: it may read and write rows, and owns nothing.

It may add to the audit, and neither change nor delete it. `python -m expunge.store.migrate` creates the role,
and renews its rights after every migration, when EXPUNGE_MIGRATION_DATABASE_URL has another user than
EXPUNGE_DATABASE_URL; `python -m expunge.store.roles` renews them without migrating.
"""

import sys

import psycopg
from psycopg import sql
from sqlalchemy.engine import make_url

from expunge.store.db import psycopg_url

APPEND_ONLY = "select distinct tgrelid::regclass::text from pg_trigger where tgname = 'append_only_rows'"
TABLES = "select tablename from pg_tables where schemaname = 'public'"
MAY_CREATE_ROLES = "select rolsuper or rolcreaterole from pg_roles where rolname = current_user"
EXCESS_RIGHTS = """
    select case when r.rolsuper then 'is a superuser' when r.rolcreaterole then 'may create roles'
        when r.rolbypassrls then 'may bypass row security'
                when exists (select from pg_tables t where t.tableowner = r.rolname
                    and t.schemaname = 'public') then 'owns tables'
                when exists (select from pg_database d where d.datdba = r.oid
                    and d.datname = current_database()) then 'owns the database'
                when exists (select from pg_roles o where o.oid <> r.oid
                    and pg_has_role(r.oid, o.oid, 'member') and (o.rolsuper or o.rolcreaterole
                    or o.rolname in
                        ('pg_execute_server_program', 'pg_write_server_files', 'pg_read_server_files')
                    or exists (select from pg_tables t where t.tableowner = o.rolname
                        and t.schemaname = 'public')
                    or exists (select from pg_database d where d.datdba = o.oid
                        and d.datname = current_database())))
                then 'belongs to a role that may do more' end
    from pg_roles r where r.rolname = %s
"""


class RoleError(Exception):
    """The service cannot run as this role; the message says what to do."""


def grant(owner_url: str, service_url: str) -> None:
    """Create the role of `service_url`, where it is new, and grant it what the service does with the tables.

    Raises: RoleError where the role could do more, or cannot be created.
    """
    role, password = make_url(service_url).username, make_url(service_url).password
    if not role:
        raise RoleError(
            "EXPUNGE_DATABASE_URL has no user: add the role that API, loops and workers are to run as"
        )
    with psycopg.connect(psycopg_url(owner_url)) as connection:
        connection.execute("select pg_advisory_xact_lock(hashtextextended('expunge:migrate', 0))")
        # The role, which may do no more than we grant it
        create_role(connection, role, password)
        found = connection.execute(EXCESS_RIGHTS, [role]).fetchone()
        if found is None:
            raise RoleError(
                f"there is no role '{role}', and the owner may not create one: as a superuser, run 'create"
                f" role {role} login password …'"
            )
        if found[0]:
            raise RoleError(
                f"the role '{role}' of EXPUNGE_DATABASE_URL {found[0]}: name another one there; it is created"
            )
        # Rights to the schema and its sequences, then to each table
        for statement in list_grants(connection):
            connection.execute(
                sql.SQL(statement).format(
                    role=sql.Identifier(role), database=sql.Identifier(connection.info.dbname)
                )
            )
        tables = {name for (name,) in connection.execute(TABLES)}
        grown = {name for (name,) in connection.execute(APPEND_ONLY)}
        for table in sorted(tables):
            allowed = (
                "select"
                if table == "alembic_version"
                else "select, insert"
                if table in grown
                else "select, insert, update, delete"
            )
            names = {"role": sql.Identifier(role), "table": sql.Identifier(table)}
            connection.execute(sql.SQL("revoke all on {table} from {role}").format(**names))
            connection.execute(sql.SQL(f"grant {allowed} on {{table}} to {{role}}").format(**names))


def create_role(connection: psycopg.Connection, role: str, password: str | None) -> None:
    """Create the role, or set its password; the server is sent only the hash that it keeps of that."""
    (able,) = connection.execute(MAY_CREATE_ROLES).fetchone() or (False,)
    if not able:
        return
    name = sql.Identifier(role)
    if connection.execute("select from pg_roles where rolname = %s", [role]).fetchone() is None:
        connection.execute(sql.SQL("create role {} login").format(name))
    elif (connection.execute(EXCESS_RIGHTS, [role]).fetchone() or (None,))[0]:
        return  # a role of somebody else, whose password is not ours to set
    if password:
        kept = connection.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256").decode()
        connection.execute(sql.SQL("alter role {} password {}").format(name, sql.Literal(kept)))


def list_grants(connection: psycopg.Connection) -> list[str]:
    """Statements for the whole database, and for the tables that later migrations create."""
    (own,) = connection.execute(
        "select pg_has_role(datdba, 'member') from pg_database where datname = current_database()"
    ).fetchone() or (False,)
    return [
        *(
            [
                "revoke temporary on database {database} from public",
                "grant connect on database {database} to {role}",
            ]
            if own
            else []
        ),
        "revoke create on schema public from public, {role}",
        "grant usage on schema public to {role}",
        "grant usage on all sequences in schema public to {role}",
        "alter default privileges in schema public grant select, insert, update, delete on tables to {role}",
        "alter default privileges in schema public grant usage on sequences to {role}",
    ]


def main() -> None:
    """Renew the rights of EXPUNGE_DATABASE_URL's user, as the user of EXPUNGE_MIGRATION_DATABASE_URL."""
    from expunge.store.settings import read

    settings = read(secret=False)
    if settings.migration_database_url is None:
        raise SystemExit(
            "EXPUNGE_MIGRATION_DATABASE_URL is not set: set it to the URL of the tables' owner, and"
            " EXPUNGE_DATABASE_URL to the service's"
        )
    grant_or_exit(
        settings.migration_database_url.get_secret_value(), settings.database_url.get_secret_value()
    )


def grant_or_exit(owner_url: str, service_url: str) -> None:
    """`grant` for a command.

    Raises: SystemExit with the reason.
    """
    try:
        grant(owner_url, service_url)
    except RoleError as error:
        raise SystemExit(str(error)) from error
    sys.stdout.write(
        f"the role '{make_url(service_url).username}' may read and write rows, and nothing else\n"
    )


if __name__ == "__main__":
    main()
