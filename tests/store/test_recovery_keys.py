"""Recovery keys: stored for their owner alone, revoked for good, every read kept."""

import stat
import uuid
from datetime import timedelta
from pathlib import Path

from expunge.store import artifacts, attempts, keys
from expunge.store.attempts import NewArtifact
from expunge.store.blobs import Blobs
from expunge.worker import sweeper
from tests.support.stored import keys_older_than

SECRET = "0123456789abcdef" * 4


def made(session, job, key: str) -> uuid.UUID:
    """A published recovery key whose bytes lie under `key`."""
    new = NewArtifact(
        uuid.uuid4(), "recovery_key.safetensors", "application/octet-stream", 3, "0" * 64, key, "recovery_key"
    )
    attempts.publish(session, job.id, job.fence, [new], verdict=None, progress=None)
    session.commit()
    return new.id


def test_stored_bytes_are_for_the_owner_alone(tmp_path: Path):
    Blobs(tmp_path.as_uri()).put("a/b/c", b"key")
    assert stat.S_IMODE((tmp_path / "a/b/c").stat().st_mode) == 0o600


def test_reads_are_kept_newest_first_with_the_api_key_s_name(session, tenant, make, take):
    row = artifacts.get(session, tenant.id, made(session, take(make().id), "k"))
    reader, _ = keys.create(session, SECRET, tenant.id, name="custodian")
    for start in (0, 10, 20):
        artifacts.record_read(
            session, row.id, reader.id, address="10.0.0.9", request_id="r", start=start, stop=start + 5
        )
        session.commit()
    found = artifacts.list_reads(session, row)
    assert [(read.start, read.stop, name) for read, name in found] == [
        (20, 25, "custodian"),
        (10, 15, "custodian"),
        (0, 5, "custodian"),
    ]
    newest = found[0][0]
    rest = artifacts.list_reads(session, row, after=(newest.created_at, newest.id), limit=1)
    assert [read.start for read, _ in rest] == [10]


def test_revoking_twice_keeps_the_first_time(session, tenant, make, take):
    row = artifacts.get(session, tenant.id, made(session, take(make().id), "k"))
    assert row.kind == artifacts.RECOVERY_KEY
    first = artifacts.revoke(session, row).revoked_at
    session.commit()
    assert first is not None
    assert artifacts.revoke(session, row).revoked_at == first


def test_bytes_that_a_crash_left_behind_after_the_revocation_are_swept(session, settings, tenant, make, take):
    """The row is revoked first; if the process dies before it deletes the bytes, the sweep does."""
    blobs = Blobs(settings.artifacts_url)
    blobs.put("kept", b"key")
    blobs.put("revoked", b"key")
    made(session, take(make().id), "kept")
    artifacts.revoke(session, artifacts.get(session, tenant.id, made(session, take(make().id), "revoked")))
    session.commit()
    sweeper.turn(settings.model_copy(update={"sweep_after_seconds": 1e-6}))
    assert list(keys_older_than(blobs, timedelta(days=-1))) == ["kept"]
