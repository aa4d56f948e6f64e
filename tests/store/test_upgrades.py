"""F27: migrations with data in every table, and the previous revision's workers on this revision's schema."""

import json
import re
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from alembic.script import ScriptDirectory
from psycopg.types.json import Jsonb
from sqlalchemy.engine import make_url

from expunge.store import attempts, db, jobs, migrate
from expunge.store.attempts import NewArtifact
from tests.support.cluster import until

LEASE = timedelta(minutes=1)
BEFORE = "0002"  # the last revision of the release before

TENANT, KEY, JOB, ARTIFACT = (uuid.UUID(int=n) for n in range(1, 5))
DATA = [
    ("insert into tenants (id, name) values (%s, 'default')", [TENANT]),
    (
        (
            "insert into api_keys (id, tenant_id, name, hint, digest, scopes) values (%s, %s, 'k',"
            " 'ex_live_abcd', 'd', array['admin'])"
        ),
        [KEY, TENANT],
    ),
    (
        (
            "insert into jobs (id, tenant_id, kind, status, spec, labels, attempt, fence, finished_at) values"
            " (%s, %s, 'hide', 'succeeded', %s, %s, 1, 1, now())"
        ),
        [JOB, TENANT, Jsonb({"concepts": ["church"]}), Jsonb({"team": "safety"})],
    ),
    (
        "insert into events (job_id, seq, type, data) values (%s, 1, 'queued', %s)",
        [JOB, Jsonb({"status": "queued"})],
    ),
    (
        (
            "insert into idempotency (tenant_id, key, request_hash, job_id, expires_at) values (%s, 'one',"
            " 'h', %s, now() + interval '1 day')"
        ),
        [TENANT, JOB],
    ),
    (
        "insert into checkpoints (job_id, attempt, fence, step, files) values (%s, 1, 1, 25, %s)",
        [JOB, Jsonb({"s": {"key": "c"}})],
    ),
    (
        (
            "insert into artifacts (id, tenant_id, job_id, kind, name, media_type, size, sha256, key) values"
            " (%s, %s, %s, 'recovery_key', 'k', 'm', 3, %s, 'a/b')"
        ),
        [ARTIFACT, TENANT, JOB, "0" * 64],
    ),
    (
        (
            "insert into artifact_reads (id, artifact_id, api_key_id, request_id, start, stop) values (%s,"
            " %s, %s, 'r', 0, 3)"
        ),
        [uuid.uuid4(), ARTIFACT, KEY],
    ),
]


@pytest.fixture
def database(postgres_url: str) -> Iterator[str]:
    """An empty database of this test's own."""
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("create database upgrades_test")
        url = make_url(postgres_url).set(database="upgrades_test").render_as_string(hide_password=False)
        yield url
        db.engine(url).dispose()
        connection.execute("drop database upgrades_test with (force)")


def columns(url: str) -> dict[str, list[str]]:
    query = (
        "select table_name, column_name from information_schema.columns where table_schema = 'public' order"
        " by 1, 2"
    )
    found: dict[str, list[str]] = {}
    with psycopg.connect(url) as connection:
        for table, column in connection.execute(query):
            found.setdefault(table, []).append(column)
    found.pop("alembic_version")
    return found


def rows(url: str, shape: dict[str, list[str]]) -> dict[str, list[str]]:
    """Every row, in these columns, as text."""
    with psycopg.connect(url) as connection:
        return {
            table: sorted(
                json.dumps(row, default=str, sort_keys=True)
                for row in connection.execute(f"select {', '.join(names)} from {table}")
            )
            for table, names in shape.items()
        }


def test_up_down_up_keeps_every_row(database):
    migrate.upgrade(database, BEFORE)
    with psycopg.connect(database) as connection:
        for statement, values in DATA:
            connection.execute(statement, values)
    shape = columns(database)
    held = rows(database, shape)
    assert all(held.values()), "every table has a row"
    migrate.upgrade(database)
    assert rows(database, shape) == held
    migrate.downgrade(database, BEFORE)
    assert columns(database) == shape
    assert rows(database, shape) == held
    migrate.upgrade(database)
    assert rows(database, shape) == held
    migrate.check(database)


def test_nobody_waits_for_a_migration_that_waits_for_a_long_reader(database):
    """The migration asks for the lock again and again instead of standing in the line, where all who come
    later would wait behind it.
    """
    migrate.upgrade(database, BEFORE)
    options = "-c lock_timeout=5s"
    with (
        ThreadPoolExecutor(1) as pool,
        psycopg.connect(database) as reader,
        psycopg.connect(database, autocommit=True, options=options) as works,
    ):
        works.execute(*DATA[0])
        reader.execute("select count(*) from jobs")  # a transaction that stays open
        upgrade = pool.submit(migrate.upgrade, database)
        try:
            for _ in range(12):
                works.execute("select pg_sleep(0.2)")
                old_life(works, uuid.uuid4())
            assert not upgrade.done(), "the reader is still there"
        finally:
            reader.rollback()
        upgrade.result(60)
    migrate.check(database)


def test_an_upgrade_that_was_killed_in_the_middle_of_an_index_goes_on(database):
    migrate.upgrade(database, "removal")
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(*DATA[0])
        connection.execute("create index ix_jobs_finished on jobs (finished_at)")
        # As a kill leaves it
        connection.execute(
            "update pg_index set indisvalid = false where indexrelid = 'ix_jobs_finished'::regclass"
        )
        migrate.upgrade(database)
        (whole,) = connection.execute(
            "select indisvalid from pg_index where indexrelid = 'ix_jobs_finished'::regclass"
        ).fetchone()
    assert whole
    migrate.check(database)


def test_no_index_is_made_in_a_way_that_holds_up_writers():
    """Every table's index after the first tables' own is made by migrations/indices.py; one on a table that
    the same revision makes is empty.
    """
    for script in ScriptDirectory.from_config(migrate.config("postgresql://nowhere/x")).walk_revisions():
        source = Path(script.path).read_text()
        made = set(re.findall(r'create_table\(\s*"(\w+)"', source))
        for table in re.findall(r'op\.create_index\(\s*(?:op\.f\()?"\w+"\)?,\s*"(\w+)"', source):
            assert table in made, f"{script.path}: an index on {table}"


def test_there_is_one_head():
    assert len(ScriptDirectory.from_config(migrate.config("postgresql://nowhere/x")).get_heads()) == 1


# What the release before sends, word for word but for the bound names.
JOB_COLUMNS = (
    "id, tenant_id, kind, status, spec, labels, version, retried_from, attempt, max_attempts, fence,"
    " lease_owner, lease_expires_at, available_at, dispatched_at, cancel_requested_at, queue_deadline_at,"
    " run_timeout_s, run_deadline_at, progress, verdict, error, created_at, started_at, finished_at"
)
HELD = "where jobs.id = %(id)s and jobs.fence = %(fence)s"
EVENT = (
    "insert into events (job_id, seq, type, data) values (%(id)s, %(seq)s, %(type)s, %(data)s) returning"
    " events.created_at"
)
CREATE = (
    "insert into jobs (id, tenant_id, kind, spec, labels, retried_from, max_attempts, lease_owner,"
    " lease_expires_at, dispatched_at, cancel_requested_at, queue_deadline_at, run_timeout_s,"
    " run_deadline_at, progress, verdict, error, started_at, finished_at) values (%(id)s, %(tenant)s,"
    " 'erase', %(data)s, '{}', null, 3, null, null, null, null, null, null, null, null, null, null, null,"
    " null)"
)
CLAIM = (
    "update jobs set status='running', version=(jobs.version + 1), attempt=(jobs.attempt + 1),"
    " fence=(jobs.fence + 1), lease_owner='old', lease_expires_at=(now() + interval '60 s'),"
    " started_at=coalesce(jobs.started_at, now()), run_deadline_at=coalesce(jobs.run_deadline_at, now() +"
    " jobs.run_timeout_s * interval '1 s') where jobs.id = %(id)s and jobs.attempt < jobs.max_attempts and"
    " (jobs.run_deadline_at is null or jobs.run_deadline_at > now()) and (jobs.status = 'queued' and"
    " jobs.available_at <= now() and (jobs.started_at is not null or jobs.queue_deadline_at is null or"
    " jobs.queue_deadline_at > now()) or jobs.status = 'running' and jobs.lease_expires_at < now())"
    f" returning {JOB_COLUMNS}"
)
BEAT = (
    f"update jobs set lease_expires_at=(now() + interval '60 s') {HELD} and jobs.status in ('running',"
    " 'cancelling') returning jobs.status = 'cancelling', coalesce(jobs.run_deadline_at < now(), false)"
)
PROGRESS = (
    f"update jobs set version=(jobs.version + 1), progress=%(data)s {HELD} and jobs.status in ('running',"
    f" 'cancelling') returning {JOB_COLUMNS}"
)
CHECKPOINT = (
    "insert into checkpoints (job_id, attempt, fence, step, files) values (%(id)s, 1, %(fence)s, 25,"
    " %(data)s) returning checkpoints.id"
)
SUCCEED = (
    "update jobs set status='succeeded', version=(jobs.version + 1), lease_owner=null,"
    f" lease_expires_at=null, progress=null, verdict=%(data)s, error=null, finished_at=now() {HELD} and"
    f" jobs.status in ('running') returning {JOB_COLUMNS}"
)
ARTIFACTS = (
    "insert into artifacts (id, tenant_id, job_id, kind, name, media_type, size, sha256, key, revoked_at)"
    " values (%(artifact)s, %(tenant)s, %(id)s, 'file', 'delta', 'm', 3, %(sha256)s, 'a/b', null) returning"
    " artifacts.info, artifacts.created_at"
)


@pytest.fixture
def old(database: str) -> Iterator[Callable[..., list[Any]]]:
    """old(statement, name=value...): what the release before would send to the new schema, in a transaction
    of its own.
    """
    migrate.upgrade(database)
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(*DATA[0])

        def send(statement: str, **values: object) -> list[Any]:
            answer = connection.execute(
                statement, {"id": JOB, "tenant": TENANT, "data": Jsonb({"step": 1}), **values}
            )
            return answer.fetchall() if answer.description else []

        yield send


def test_the_previous_revision_s_worker_runs_a_job_of_ours_to_its_end(database, old):
    with db.transaction(database) as session:
        made = jobs.create_job(
            session, TENANT, "erase", {"concepts": ["church"]}, request_id="new", trace="00-a-b-01"
        )
    ((*_,),) = old(CLAIM, id=made.id)
    assert old(BEAT, id=made.id, fence=1) == [(False, False)]
    old(PROGRESS, id=made.id, fence=1)
    old(EVENT, id=made.id, seq=3, type="progress")
    old(CHECKPOINT, id=made.id, fence=1)
    assert old(BEAT, id=made.id, fence=7) == [], "another fence holds nothing"
    assert len(old(SUCCEED, id=made.id, fence=1)) == 1
    old(ARTIFACTS, id=made.id, artifact=ARTIFACT, sha256="0" * 64)
    with db.transaction(database) as session:
        done = jobs.get(session, TENANT, made.id)
        assert (done.status, done.request_id, done.trace) == ("succeeded", "new", "00-a-b-01")


def test_our_worker_runs_a_job_that_the_previous_revision_s_api_made(database, old):
    old(CREATE)
    old(EVENT, seq=1, type="queued")
    with db.transaction(database) as session:
        claimed = attempts.claim(session, JOB, owner="new", lease=LEASE)
        assert (claimed.facts()["request_id"], claimed.trace) == (None, None)
        attempts.report_progress(session, JOB, claimed.fence, {"step": 1})
        made = NewArtifact(ARTIFACT, "delta", "m", 3, "0" * 64, "a/b")
        attempts.publish(session, JOB, claimed.fence, [made], verdict=None, progress=None)
        assert jobs.get(session, TENANT, JOB).status == "succeeded"


def test_a_job_that_we_handed_over_is_run_to_its_end_by_the_previous_revision_s_worker(database, old):
    with db.transaction(database) as session:
        made = jobs.create_job(session, TENANT, "erase", {}, run_timeout_s=3600)
        fence = attempts.claim(session, made.id, owner="new", lease=LEASE).fence
        attempts.release(session, made.id, fence, reason="queue_paused")
    ((*row,),) = old(CLAIM, id=made.id)
    assert len(row) == len(JOB_COLUMNS.split(", "))
    assert old(BEAT, id=made.id, fence=2) == [(False, False)], (
        "it counts its run_timeout_s anew, as it knows of no time left"
    )
    assert len(old(SUCCEED, id=made.id, fence=2)) == 1


def test_a_job_is_handed_from_an_old_worker_to_a_new_one_and_the_old_one_can_write_no_more(database, old):
    old(CREATE)
    old(EVENT, seq=1, type="queued")
    old(CLAIM)
    old(EVENT, seq=2, type="started")
    old("update jobs set lease_expires_at = now() - interval '1 s'")
    with db.transaction(database) as session:
        assert attempts.claim(session, JOB, owner="new", lease=LEASE).fence == 2
    assert old(BEAT, fence=1) == []
    assert old(PROGRESS, fence=1) == []
    assert old(SUCCEED, fence=1) == []


def old_life(connection: psycopg.Connection, job_id: uuid.UUID) -> None:
    """A job from POST to publication as the release before does it, in its transactions."""
    shared = {
        "id": job_id,
        "tenant": TENANT,
        "data": Jsonb({"step": 1}),
        "fence": 1,
        "artifact": uuid.uuid4(),
        "sha256": "0" * 64,
    }
    artifact = ARTIFACTS.replace("'a/b'", f"'{job_id}'")
    for seq, (type_, statements) in enumerate(
        [
            ("queued", [CREATE]),
            ("started", [CLAIM, BEAT]),
            ("progress", [PROGRESS, CHECKPOINT]),
            ("succeeded", [SUCCEED, artifact]),
        ],
        start=1,
    ):
        with connection.transaction():
            for statement in statements:
                assert connection.execute(statement, shared).rowcount == 1
            connection.execute(EVENT, {**shared, "seq": seq, "type": type_})


def test_the_previous_revision_works_on_while_the_schema_goes_up_and_down(database):
    """Two of its processes take jobs from POST to publication all the while, and no statement of theirs
    fails.
    """
    migrate.upgrade(database, BEFORE)
    over, done = threading.Event(), list[uuid.UUID]()

    def work() -> None:
        with psycopg.connect(database, autocommit=True) as connection:
            while not over.is_set():
                old_life(connection, job_id := uuid.uuid4())
                done.append(job_id)

    def until_more() -> None:
        seen = len(done)
        until(lambda: len(done) >= seen + 20 or any(worker.done() for worker in workers))

    with psycopg.connect(database) as connection:
        connection.execute(*DATA[0])
    with ThreadPoolExecutor(2) as pool:
        workers = [pool.submit(work) for _ in range(2)]
        try:
            for _ in range(3):
                until_more()
                migrate.upgrade(database)
                until_more()
                migrate.downgrade(database, BEFORE)
            until_more()
        finally:
            over.set()
        for worker in workers:
            worker.result()
    with psycopg.connect(database) as connection:
        assert connection.execute("select count(*) from jobs where status = 'succeeded'").fetchone() == (
            len(done),
        )
        assert connection.execute("select count(distinct job_id) from artifacts").fetchone() == (len(done),)
