"""What the sweep may touch: only objects of its own deployment, of its own layout, not many at a time, and
none of them for good at once.
"""

import json
import os
import subprocess
import sys
import tracemalloc
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import obstore
import pytest
from sqlalchemy import text

from expunge.store import artifacts, deployment, quarantine
from expunge.store.blobs import MARKER, Blobs, output_key, upload_key
from expunge.store.errors import ForeignStore
from expunge.worker import sweeper, verifier

TODAY = f"{datetime.now(UTC):%Y-%m-%d}"
FOREIGN = [
    "tax/2025.pdf",
    "family.jpg",
    "notes#old.txt",
    f"{uuid.uuid4()}/uploads/{uuid.uuid4()}",
    "notes/quarantine/x",
    f"{uuid.uuid4()}",
]


@pytest.fixture(params=["directory", "s3"])
def hasty(request, settings):
    """Settings under which everything stored is old; a store of either kind."""
    url = request.getfixturevalue("bucket") if request.param == "s3" else settings.artifacts_url
    return settings.model_copy(update={"artifacts_url": url, "sweep_after_seconds": -60})


@pytest.fixture
def blobs(hasty) -> Blobs:
    return Blobs(hasty.artifacts_url)


def keys(blobs: Blobs) -> set[str]:
    """Everything that is stored, whosever it is."""
    return {key for page in blobs.list_pages() for key, _ in page}


def upload(session, tenant, blobs: Blobs, content: bytes = b"x") -> str:
    """A stored upload, with its row."""
    key = upload_key(tenant.id)
    size, sha256 = blobs.put(key, content)
    artifacts.add_upload(session, tenant.id, name="a", media_type="m", size=size, sha256=sha256, key=key)
    session.commit()
    return key


def orphan(tenant, blobs: Blobs) -> str:
    key = output_key(tenant.id, uuid.uuid4(), 1, 1)
    blobs.put(key, b"left by a kill")
    return key


def refusals(reason: str) -> float:
    from expunge.worker import metrics

    return metrics.refused_sweeps.labels(reason)._value.get()


def test_files_of_others_outlive_every_sweep(session, tenant, hasty, blobs):
    mine = upload(session, tenant, blobs)
    for name in FOREIGN:
        obstore.put(blobs.store, name, b"dear to somebody")
    left = orphan(tenant, blobs)
    for _ in range(2):
        sweeper.turn(hasty.model_copy(update={"quarantine_days": 0}))
    assert keys(blobs) == {MARKER, mine, *FOREIGN}
    assert left not in keys(blobs)


def test_a_directory_s_half_written_files_of_others_stay(session, tenant, settings):
    blobs = Blobs(settings.artifacts_url)
    mine = upload(session, tenant, blobs)
    theirs, ours = blobs.folder / "report #1.odt", blobs.folder / f"{mine}#3"
    theirs.write_bytes(b"a draft")
    ours.write_bytes(b"half")
    sweeper.turn(settings.model_copy(update={"sweep_after_seconds": -60}))
    assert theirs.exists()
    assert not ours.exists()


def test_what_no_row_names_is_set_aside_restored_on_request_and_deleted_when_its_days_are_over(
    session, tenant, hasty, blobs
):
    mine, left = upload(session, tenant, blobs), orphan(tenant, blobs)
    sweeper.turn(hasty)
    aside = f"quarantine/{TODAY}/{left}"
    assert keys(blobs) == {MARKER, mine, aside}
    assert quarantine.restore(blobs) == 1
    assert keys(blobs) == {MARKER, mine, left}
    sweeper.turn(hasty)
    sweeper.turn(hasty)
    assert aside in keys(blobs), "its days are not over"
    old = f"quarantine/{datetime.now(UTC) - timedelta(days=8):%Y-%m-%d}/{left}"
    blobs.move(aside, old)
    sweeper.turn(hasty)
    assert keys(blobs) == {MARKER, mine}


def test_what_a_row_names_again_goes_back_instead_of_being_deleted(session, tenant, hasty, blobs):
    """A newer database was restored meanwhile."""
    mine, late = upload(session, tenant, blobs), upload(session, tenant, blobs)
    blobs.move(late, f"quarantine/2020-01-01/{late}")
    sweeper.turn(hasty)
    assert keys(blobs) == {MARKER, mine, late}


def test_a_database_older_than_the_store_costs_no_object(session, tenant, hasty, blobs):
    known = [upload(session, tenant, blobs) for _ in range(3)]
    deployment.open_store(hasty)
    later = [upload(session, tenant, blobs) for _ in range(10)]
    session.execute(text("delete from artifacts where key = any(:later)"), {"later": later})
    session.commit()
    sweeper.turn(hasty)
    assert keys(blobs) == {MARKER, *known, *(f"quarantine/{TODAY}/{key}" for key in later)}


def test_a_sweep_that_would_take_much_takes_nothing_and_says_so(session, tenant, hasty, blobs):
    upload(session, tenant, blobs)
    lost = {orphan(tenant, blobs) for _ in range(quarantine.AT_LEAST + 1)}
    before = refusals("too_many")
    sweeper.turn(hasty)
    assert lost < keys(blobs)
    assert refusals("too_many") == before + 1
    quarantine.sweep(hasty, blobs, bounded=False)
    assert not lost & keys(blobs)


def test_an_empty_database_leaves_a_full_store_alone(session, tenant, hasty, blobs):
    """EXPUNGE_DATABASE_URL points at a fresh database; the store was never marked."""
    stored = {orphan(tenant, blobs) for _ in range(3)}
    before = refusals("foreign_store")
    sweeper.turn(hasty)
    assert keys(blobs) == stored, "no marker either"
    assert refusals("foreign_store") == before + 1
    with pytest.raises(ForeignStore, match=r"EXPUNGE_ARTIFACTS_URL .* this database names none"):
        deployment.open_store(hasty)


def test_another_deployment_s_store_is_refused_by_sweep_verifier_publication_and_uploads(
    session, tenant, hasty, blobs
):
    mine = upload(session, tenant, blobs)
    left = orphan(tenant, blobs)
    deployment.write_marker(blobs, uuid.uuid4(), over=True)
    session.execute(text("update artifacts set verified_at = now() - interval '8 days'"))
    session.commit()
    blobs.delete([mine])
    before = keys(blobs)
    sweeper.turn(hasty)
    verifier.turn(hasty)
    assert keys(blobs) == before
    assert left in before
    assert artifacts.count_corrupt(session) == 0, "it is another store, not a damaged one"
    adopt = r"EXPUNGE_ARTIFACTS_URL .* python -m expunge.store.deployment adopt"
    with pytest.raises(ForeignStore, match=adopt):
        deployment.open_store_cached(hasty)


def test_a_store_that_lost_its_marker_is_refused(session, tenant, hasty, blobs):
    """As when the volume is not mounted."""
    upload(session, tenant, blobs)
    deployment.open_store(hasty)
    blobs.delete([MARKER])
    with pytest.raises(ForeignStore, match="has lost its marker"):
        deployment.open_store(hasty)


def test_a_store_that_another_process_marks_and_fills_meanwhile_is_ours(
    session, tenant, hasty, blobs, monkeypatch
):
    """Between the look for the marker and the look for objects, the other one does both."""
    check = deployment.check_unmarked

    def late(*given):
        monkeypatch.setattr(deployment, "check_unmarked", check)
        deployment.open_store(hasty)
        orphan(tenant, blobs)
        check(*given)

    monkeypatch.setattr(deployment, "check_unmarked", late)
    deployment.open_store(hasty)
    assert deployment.read_marker(blobs) == deployment.get_deployment(session).id
    assert deployment.check_unmarked is check


def test_a_store_from_before_there_were_markers_is_marked_when_it_holds_what_the_rows_name(
    session, tenant, hasty, blobs
):
    upload(session, tenant, blobs)
    deployment.open_store(hasty)
    assert deployment.read_marker(blobs) == deployment.get_deployment(session).id


def test_a_store_whose_rows_lie_elsewhere_is_not_taken(session, tenant, hasty, blobs):
    blobs.delete([upload(session, tenant, blobs)])
    obstore.put(blobs.store, "somebody/else", b"x")
    with pytest.raises(ForeignStore, match="none of those that this database names"):
        deployment.open_store(hasty)
    assert keys(blobs) == {"somebody/else"}


def test_a_marker_that_is_none_of_ours_is_never_written_over(hasty, blobs):
    obstore.put(blobs.store, MARKER, b"[]")
    with pytest.raises(ForeignStore, match="not written by Expunge"):
        deployment.open_store(hasty)
    assert bytes(obstore.get(blobs.store, MARKER).bytes()) == b"[]"


def test_loops_do_not_start_on_another_deployment_s_store(settings):
    blobs = Blobs(settings.artifacts_url)
    deployment.write_marker(blobs, uuid.uuid4())
    environment = {
        **os.environ,
        "EXPUNGE_DATABASE_URL": settings.database_url.get_secret_value(),
        "EXPUNGE_ARTIFACTS_URL": settings.artifacts_url,
        "EXPUNGE_REDIS_URL": settings.redis_url.get_secret_value(),
        "EXPUNGE_SECRET": settings.secret.get_secret_value(),
    }

    def run(*argv: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", *argv]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)

    refused = run("expunge.worker.loops")
    assert refused.returncode == 1
    assert "expunge.store.deployment adopt" in refused.stdout
    shown = json.loads(run("expunge.store.deployment", "show").stdout)
    assert shown["database"] != shown["store"]
    shown = json.loads(run("expunge.store.deployment", "adopt").stdout)
    assert shown["database"] == shown["store"]
    assert json.loads(run("expunge.store.quarantine", "show").stdout) == {}


def test_a_sweep_of_many_objects_holds_a_page_of_them(session, tenant, settings):
    blobs, hasty = Blobs(settings.artifacts_url), settings.model_copy(update={"sweep_after_seconds": -60})
    upload(session, tenant, blobs)
    root = Path(blobs.folder) / str(tenant.id) / "uploads"
    for _ in range(20_000):
        (root / str(uuid.uuid4())).touch()
    quarantine.sweep(hasty, blobs)  # what is imported and cached at the first time
    tracemalloc.start()
    found = quarantine.sweep(hasty, blobs)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (found.objects, found.orphans, found.taken) == (20_001, 20_000, False)
    assert peak < 8 << 20, peak


def test_what_is_not_ours_does_not_widen_a_sweep_s_bound(session, tenant, settings):
    """A prefix that others share: their objects, of other layouts or of other deployments' tenants, are no
    share of ours.
    """
    blobs, hasty = Blobs(settings.artifacts_url), settings.model_copy(update={"sweep_after_seconds": -60})
    mine, lost = (
        upload(session, tenant, blobs),
        {orphan(tenant, blobs) for _ in range(quarantine.AT_LEAST + 1)},
    )
    deployment.open_store(hasty)
    for folder in ("photos", f"nested/{uuid.uuid4()}/uploads", f"{uuid.uuid4()}/uploads"):
        root = blobs.folder / folder
        root.mkdir(parents=True)
        for _ in range(300):
            (root / str(uuid.uuid4())).touch()
    found = quarantine.sweep(hasty, blobs)
    assert (found.objects, found.orphans, found.taken) == (len(lost) + 1, len(lost), False)
    assert {mine, *lost} < keys(blobs)


def test_what_a_row_names_again_goes_back_at_the_next_turn(session, tenant, hasty, blobs):
    """It was set aside between its bytes and its row, or a database was restored: nobody waits for days, nor
    loses it.
    """
    mine, late = upload(session, tenant, blobs), upload(session, tenant, blobs)
    blobs.move(late, f"quarantine/{TODAY}/{late}")
    sweeper.turn(hasty)
    assert keys(blobs) == {MARKER, mine, late}


def test_a_clock_that_runs_ahead_makes_nothing_old(session, tenant, settings, monkeypatch):
    blobs, left = Blobs(settings.artifacts_url), None
    mine = upload(session, tenant, blobs)
    deployment.open_store(settings)
    left = orphan(tenant, blobs)
    blobs.move(left, f"quarantine/{TODAY}/{left}")
    young = orphan(tenant, blobs)

    class Ahead(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + timedelta(days=30)

    monkeypatch.setattr(quarantine, "datetime", Ahead)
    sweeper.turn(settings)
    assert keys(blobs) == {MARKER, mine, young, f"quarantine/{TODAY}/{left}"}


def test_nothing_is_written_to_a_directory_that_lost_its_marker_since(session, tenant, settings):
    """A volume that is no longer mounted, under a process that runs on."""
    blobs = deployment.open_store_cached(settings)
    upload(session, tenant, blobs)
    blobs.delete([MARKER])
    with pytest.raises(ForeignStore, match="has lost its marker"):
        deployment.open_store_cached(settings)
    deployment.write_marker(blobs, deployment.get_deployment(session).id)
    assert deployment.open_store_cached(settings).folder == blobs.folder
