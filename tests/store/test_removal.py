"""What goes at its age, and a tenant that leaves."""

import os
import subprocess
import sys
import uuid
from datetime import timedelta

import pytest
from sqlalchemy import event, text

from expunge.store import (
    artifacts,
    attempts,
    audit,
    db,
    deployment,
    idempotency,
    jobs,
    keys,
    queue_quotas,
    removal,
    tenants,
)
from expunge.store.attempts import NewArtifact
from expunge.store.blobs import Blobs, output_key, upload_key
from expunge.store.errors import WrongState
from expunge.store.models import Base
from expunge.worker import sweeper
from tests.support.stored import keys_older_than

DAY = timedelta(days=1)
LEASE = timedelta(minutes=1)
SECRET = "s" * 64


@pytest.fixture
def blobs(settings) -> Blobs:
    return Blobs(settings.artifacts_url)


def aged(session, table: str, column: str, id_: uuid.UUID, days: int) -> None:
    session.execute(
        text(f"update {table} set {column} = now() - interval '{days} days' where id = :id"), {"id": id_}
    )
    session.commit()


def ended(session, blobs, tenant, *, days: int = 0, kind: str = "file", **spec: object):
    """A job that made one file so many days ago; (job, key)."""
    job = jobs.create_job(session, tenant.id, "erase", {"concepts": ["church"], **spec})
    fence = attempts.claim(session, job.id, owner="t", lease=LEASE).fence
    key = output_key(tenant.id, job.id, 1, fence)
    size, sha256 = blobs.put(key, b"delta")
    attempts.publish(
        session,
        job.id,
        fence,
        [NewArtifact(uuid.uuid4(), "d", "m", size, sha256, key, kind)],
        verdict=None,
        progress=None,
    )
    session.commit()
    aged(session, "jobs", "finished_at", job.id, days)
    return job, key


def upload(session, blobs, tenant, *, days: int = 0):
    key = upload_key(tenant.id)
    size, sha256 = blobs.put(key, b"face")
    row = artifacts.add_upload(
        session,
        tenant.id,
        name="my-face.png",
        media_type="image/png",
        size=size,
        sha256=sha256,
        key=key,
        info={"width": 1},
    )
    session.commit()
    aged(session, "artifacts", "created_at", row.id, days)
    return row


def stored(blobs) -> set[str]:
    return set(keys_older_than(blobs, timedelta(hours=-1)))


def test_uploads_go_at_their_age_unless_an_unfinished_job_needs_them(session, tenant, settings, blobs):
    old, new, needed = (
        upload(session, blobs, tenant, days=31),
        upload(session, blobs, tenant),
        upload(session, blobs, tenant, days=31),
    )
    job = jobs.create_job(
        session, tenant.id, "erase", {"concepts": [{"name": "me", "images": [str(needed.id).upper()]}]}
    )
    session.commit()
    aging = settings.model_copy(update={"upload_days": 30})
    sweeper.turn(aging)
    assert stored(blobs) == {new.key, needed.key}
    session.refresh(old)
    assert (old.name, old.info, old.expired_at is not None) == ("deleted", {}, True)
    jobs.cancel(session, tenant.id, job.id)
    session.commit()
    sweeper.turn(aging)
    assert stored(blobs) == {new.key}


def test_old_jobs_go_with_all_that_is_theirs_but_not_under_what_stands_on_them(
    session, tenant, settings, blobs
):
    old, old_key = ended(session, blobs, tenant, days=91)
    base, base_key = ended(session, blobs, tenant, days=91)
    above, above_key = ended(session, blobs, tenant, base_job_id=str(base.id))
    combined, combined_key = ended(session, blobs, tenant, days=91)
    ended(session, blobs, tenant, jobs=[str(combined.id), str(above.id)])
    sweeper.turn(settings.model_copy(update={"job_days": 90}))
    assert {job.id for job in jobs.list_jobs(session, tenant.id)}.isdisjoint({old.id})
    assert {base_key, above_key, combined_key} < stored(blobs)
    assert old_key not in stored(blobs)
    for table in ("events", "artifacts", "checkpoints", "idempotency"):
        assert session.scalar(text(f"select count(*) from {table} where job_id = :id"), {"id": old.id}) == 0
    assert [row.target_id for row, _ in audit.list_entries(session, tenant.id, action="job.deleted")] == [
        old.id
    ]


def test_of_old_jobs_the_last_event_stays(session, tenant, settings, blobs):
    old, _ = ended(session, blobs, tenant, days=31)
    new, _ = ended(session, blobs, tenant)
    sweeper.turn(settings.model_copy(update={"event_days": 30}))
    left = dict(
        session.execute(text("select job_id, array_agg(type order by seq) from events group by job_id")).all()
    )
    assert left == {old.id: ["succeeded"], new.id: ["queued", "started", "succeeded"]}


def test_retention_goes_in_batches_and_each_is_a_transaction_of_its_own(
    session, tenant, settings, blobs, monkeypatch
):
    monkeypatch.setattr(removal, "BATCH", 2)
    deployment.open_store(settings)
    made = [ended(session, blobs, tenant) for _ in range(5)]
    session.execute(text("update artifacts set created_at = now() - interval '31 days'"))
    session.commit()
    taken = [removal.expire_outputs(session, 30 * DAY, secrets=False) for _ in range(4)]
    assert taken == [2, 2, 1, 0]
    session.commit()
    sweeper.turn(settings.model_copy(update={"retention_days": 30}))
    assert stored(blobs) == set()
    assert all(artifacts.list_of_job(session, tenant.id, job.id)[0].expired_at for job, _ in made)


@pytest.fixture
def full(session, tenant, settings, blobs):
    """A tenant with something of everything."""
    key, _ = keys.create(session, SECRET, tenant.id, name="maria's laptop")
    ended(session, blobs, tenant)
    job, _ = ended(session, blobs, tenant, kind="recovery_key")
    (row,) = artifacts.list_of_job(session, tenant.id, job.id)
    artifacts.record_read(session, row.id, key.id, address="192.0.2.1", request_id="r", start=0, stop=5)
    upload(session, blobs, tenant)
    jobs.create_job(session, tenant.id, "erase", {"concepts": ["maria"]}, labels={"who": "maria"})
    idempotency.begin(session, tenant.id, "key", "hash")
    queue_quotas.count_job(session, tenant.id, settings)
    session.commit()
    blobs.put(output_key(tenant.id, uuid.uuid4(), 1, 1), b"left by a kill")
    return tenant


def rows_that_say(session, words: str) -> dict[str, int]:
    """How many rows of each table hold these words."""
    found = {}
    for table in Base.metadata.sorted_tables:
        n = session.scalar(
            text(f"select count(*) from {table.name} t where t::text ilike '%' || :words || '%'"),
            {"words": words},
        )
        if n:
            found[table.name] = n
    return found


def test_a_tenant_that_leaves_leaves_nothing_but_the_audit(session, full, other_tenant, settings, blobs):
    _, theirs = ended(session, blobs, other_tenant)
    assert {"jobs", "artifacts", "events", "idempotency"} < set(rows_that_say(session, str(full.id))) | {
        "events"
    }
    environment = {
        **os.environ,
        "EXPUNGE_DATABASE_URL": settings.database_url.get_secret_value(),
        "EXPUNGE_ARTIFACTS_URL": settings.artifacts_url,
    }
    done = subprocess.run(
        [sys.executable, "-m", "expunge.store.tenants", "delete", "default"],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    session.expire_all()
    assert stored(blobs) == {theirs}
    left = rows_that_say(session, str(full.id))
    assert set(left) == {"tenants", "audit", "api_keys", "artifacts"}, left
    assert set(rows_that_say(session, "maria")) <= {"audit"}, "the name of a key, in the audit of its making"
    assert rows_that_say(session, "my-face") == {}
    assert session.scalar(text("select count(*) from artifact_reads")) == 1
    assert next(row.action for row, _ in audit.list_entries(session, full.id)) == "tenant.deleted"
    again = subprocess.run(
        [sys.executable, "-m", "expunge.store.tenants", "delete", "default"],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert again.returncode == 2
    assert keys.ensure_tenant(session, "default").id != full.id


def test_a_departure_that_was_broken_off_goes_on(session, full, settings, blobs, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(tenants, "delete_rest", lambda *_: 1 / 0)  # as if the process had died here
        with pytest.raises(ZeroDivisionError):
            tenants.delete_tenant(settings, "default")
    tenants.delete_tenant(settings, "default")
    assert stored(blobs) == set()


def test_a_job_that_does_not_stop_is_named_and_the_keys_have_ended(session, full, settings):
    job = jobs.create_job(session, full.id, "erase", {})
    attempts.claim(session, job.id, owner="t", lease=LEASE)
    session.commit()
    with pytest.raises(TimeoutError, match="1 jobs of 'default' have not stopped"):
        tenants.delete_tenant(settings, "default", wait=0)
    with db.transaction(settings.database_url.get_secret_value()) as look:
        assert not [key for key in keys.list_keys(look, full.id) if key.revoked_at is None]


@pytest.mark.parametrize("what", ["upload", "job"])
def test_what_a_job_names_just_before_it_would_go_for_its_age_stays(
    session, tenant, settings, blobs, what: str
):
    """The other job's transaction ends between the look and the lock."""
    old = (
        upload(session, blobs, tenant, days=9).id
        if what == "upload"
        else ended(session, blobs, tenant, days=9)[0].id
    )
    url, named = settings.database_url.get_secret_value(), []

    def name_it(connection, cursor, statement, *_) -> None:
        if "FOR UPDATE" in statement and not named:
            named.append(statement)
            spec = (
                {"concepts": [{"name": "a", "images": [str(old)]}]}
                if what == "upload"
                else {"base_job_id": str(old)}
            )
            with db.transaction(url) as other:
                jobs.create_job(other, tenant.id, "erase", spec)

    event.listen(db.engine(url), "after_cursor_execute", name_it)
    try:
        sweeper.turn(settings.model_copy(update={f"{what}_days": 5}))
    finally:
        event.remove(db.engine(url), "after_cursor_execute", name_it)
    assert named
    gone = (
        "select count(*) from artifacts where id = :id and expired_at is null union all select count(*) from"
        " jobs where id = :id"
    )
    assert sum(session.scalars(text(gone), {"id": old})) == 1


def test_nothing_joins_a_tenant_that_has_left(session, tenant, settings, blobs):
    """What was under way when it left: a job, an upload, a key."""
    with db.transaction(settings.database_url.get_secret_value()) as late:
        keys.create(late, SECRET, tenant.id, name="a")
    tenants.lock_out(session, tenant.name)
    session.commit()
    with db.transaction(settings.database_url.get_secret_value()) as late:
        _, text_ = keys.create(late, SECRET, tenant.id, name="b")
    tenants.delete_tenant(settings, tenant.name)
    with db.transaction(settings.database_url.get_secret_value()) as late:
        assert keys.authenticate(late, SECRET, text_) is None
    for act in (queue_quotas.count_job, queue_quotas.check_storage):
        with (
            pytest.raises(WrongState, match="the tenant was deleted"),
            db.transaction(settings.database_url.get_secret_value()) as late,
        ):
            act(late, tenant.id, settings)
