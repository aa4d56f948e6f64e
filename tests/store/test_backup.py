"""A backup, restored on an empty machine, is the service it was."""

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta

import psycopg
import pytest
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.engine import make_url

from expunge.store import artifacts, attempts, db, deployment, jobs, keys, migrate
from expunge.store.attempts import NewArtifact
from expunge.store.blobs import Blobs, output_key, upload_key
from expunge.store.models import Base
from expunge.store.settings import Settings
from expunge.worker import reaper, sweeper, verifier
from tests.support.stored import keys_older_than

LEASE = timedelta(minutes=1)
DELTA = bytes(range(256)) * 5000


@pytest.fixture
def empty(settings, postgres_url, tmp_path) -> Iterator[Settings]:
    """A database and a folder with nothing in them."""
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("create database restore_test")
        url = make_url(postgres_url).set(database="restore_test").render_as_string(hide_password=False)
        yield settings.model_copy(
            update={"database_url": SecretStr(url), "artifacts_url": (tmp_path / "new").as_uri()}
        )
        db.engine(url).dispose()
        connection.execute("drop database restore_test with (force)")


@pytest.fixture
def command(postgres_url) -> Callable[..., subprocess.CompletedProcess[str]]:
    """command(settings, act, folder), as the owner of the tables."""
    return lambda settings, act, folder: ran(settings, act, folder, postgres_url)


def ran(settings: Settings, act: str, folder: object, postgres_url: str) -> subprocess.CompletedProcess[str]:
    name = make_url(settings.database_url.get_secret_value()).database
    owner = make_url(postgres_url).set(database=name).render_as_string(hide_password=False)
    environment = {
        **os.environ,
        "EXPUNGE_DATABASE_URL": settings.database_url.get_secret_value(),
        "EXPUNGE_ARTIFACTS_URL": settings.artifacts_url,
    }
    environment["EXPUNGE_MIGRATION_DATABASE_URL"] = owner
    return subprocess.run(
        [sys.executable, "-m", f"store.{act}", str(folder)], env=environment, capture_output=True, text=True
    )


@pytest.fixture
def life(session, tenant, settings) -> dict[str, uuid.UUID]:
    """A finished job, an upload, a job that runs and has a checkpoint, a key."""
    blobs = deployment.open_store(settings)
    keys.create(session, "s" * 64, tenant.id, name="k")
    done = jobs.create_job(session, tenant.id, "erase", {"concepts": ["church"]})
    fence = attempts.claim(session, done.id, owner="t", lease=LEASE).fence
    key = output_key(tenant.id, done.id, 1, fence)
    size, sha256 = blobs.put(key, DELTA)
    attempts.publish(
        session,
        done.id,
        fence,
        [NewArtifact(uuid.uuid4(), "delta", "m", size, sha256, key)],
        verdict={"passed": True},
        progress=None,
    )
    size, sha256 = blobs.put(upload := upload_key(tenant.id), b"a picture")
    artifacts.add_upload(
        session, tenant.id, name="a.png", media_type="image/png", size=size, sha256=sha256, key=upload
    )
    runs = jobs.create_job(session, tenant.id, "erase", {"concepts": ["dog"]})
    fence = attempts.claim(session, runs.id, owner="t", lease=LEASE).fence
    size, sha256 = blobs.put(state := output_key(tenant.id, runs.id, 1, fence), b"step 7")
    attempts.add_checkpoint(
        session, runs.id, fence, step=7, files={"s": {"key": state, "sha256": sha256, "size": size}}, keep=2
    )
    session.commit()
    return {"done": done.id, "runs": runs.id}


def rows(settings: Settings) -> dict[str, list[str]]:
    with db.transaction(settings.database_url.get_secret_value()) as session:
        tables = [table.name for table in Base.metadata.sorted_tables if table.name != "deployment"]
        return {name: sorted(session.scalars(text(f"select t::text from {name} t")).all()) for name in tables}


def test_an_empty_machine_becomes_the_service_it_was(command, life, tenant, settings, empty, tmp_path):
    made = command(settings, "backup", tmp_path / "backup")
    assert made.returncode == 0, made.stderr
    about = json.loads(made.stdout)
    assert (about["objects"], about["missing"]) == (3, [])
    assert any("EXPUNGE_SECRET" in secret for secret in about["keep_elsewhere"])
    before = rows(settings)
    back = command(empty, "restore", tmp_path / "backup")
    assert back.returncode == 0, back.stderr
    assert rows(empty) == before
    url, blobs = empty.database_url.get_secret_value(), deployment.open_store(empty)
    migrate.upgrade(url)
    migrate.check(url)
    assert set(keys_older_than(blobs, timedelta(hours=-1))) == set(
        keys_older_than(Blobs(settings.artifacts_url), timedelta(hours=-1))
    )
    with db.transaction(url) as session:
        (row,) = artifacts.list_of_job(session, tenant.id, life["done"])
        assert blobs.read_all(row.key, row.sha256) == DELTA
        session.execute(text("update artifacts set verified_at = now() - interval '8 days'"))
        session.execute(
            text("update jobs set lease_expires_at = now() - interval '1 s' where status = 'running'")
        )
    verifier.turn(empty)
    sweeper.turn(empty.model_copy(update={"sweep_after_seconds": -60}))
    reaper.turn(empty)
    with db.transaction(url) as session:
        assert artifacts.count_corrupt(session) == 0
        assert jobs.get(session, tenant.id, life["runs"]).status == "queued", (
            "its worker is not here: it goes on from its checkpoint"
        )
        (point,) = attempts.list_checkpoints(session, life["runs"])
        assert blobs.read_all(point.files["s"]["key"], point.files["s"]["sha256"]) == b"step 7"
    with psycopg.connect(url) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute("delete from audit")


def test_nothing_is_written_over_and_half_a_backup_is_none(command, life, settings, empty, tmp_path):
    folder = tmp_path / "backup"
    (folder / "mine").mkdir(parents=True)
    refused = command(settings, "backup", folder)
    assert (refused.returncode, [p.name for p in folder.iterdir()]) == (2, ["mine"])
    assert "does not hold a complete backup" in command(empty, "restore", folder).stderr
    good = tmp_path / "good"
    assert command(settings, "backup", good).returncode == 0
    before = rows(settings)
    assert (
        "is not empty"
        in command(settings.model_copy(update={"artifacts_url": empty.artifacts_url}), "restore", good).stderr
    )
    assert (
        "is not empty"
        in command(empty.model_copy(update={"artifacts_url": settings.artifacts_url}), "restore", good).stderr
    )
    assert rows(settings) == before


def test_what_the_store_has_lost_is_named(command, life, session, tenant, settings, tmp_path):
    (row,) = artifacts.list_of_job(session, tenant.id, life["done"])
    Blobs(settings.artifacts_url).delete([row.key])
    about = json.loads(command(settings, "backup", tmp_path / "backup").stdout)
    assert (about["objects"], about["missing"]) == (2, [row.key])


def test_a_restored_older_database_costs_the_store_nothing(
    command, life, session, tenant, settings, empty, tmp_path
):
    """The objects stayed, the database is of yesterday: what was stored since is set aside, and what the rows
    name stays.
    """
    assert command(settings, "backup", tmp_path / "backup").returncode == 0
    blobs = Blobs(settings.artifacts_url)
    blobs.put(later := upload_key(tenant.id), b"of today")
    known = set(keys_older_than(blobs, timedelta(hours=-1))) - {later}
    assert command(empty, "restore", tmp_path / "backup").returncode == 0
    old = empty.model_copy(update={"artifacts_url": settings.artifacts_url, "sweep_after_seconds": -60})
    sweeper.turn(old)
    assert set(keys_older_than(blobs, timedelta(hours=-1))) == known
    assert [key for page in blobs.list_pages("quarantine/") for key, _ in page if key.endswith(later)]
