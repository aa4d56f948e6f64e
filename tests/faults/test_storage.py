"""Full disks, killed uploads, rotten bytes, dropped downloads, and runs that do not fit into memory.

Each test is named by what must be true.
"""

import hashlib
import os
import random
import resource
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import httpx
import obstore
import psutil
import psycopg
import pytest
from sqlalchemy import text

from expunge.store import artifacts, attempts, db, deployment, jobs
from expunge.store.blobs import MARKER, Blobs, output_key
from expunge.store.models import Artifact
from expunge.store.settings import Settings
from expunge.worker import sweeper, verifier
from tests.support import ledger
from tests.support.cluster import Fleet, until
from tests.support.service import SECRET, Tenant, problem, serve
from tests.support.stalling_proxy import stalling
from tests.support.stored import keys_older_than

MIB = 1 << 20
BYTES = random.Random(5).randbytes(3_000_001)


@pytest.fixture
def worker(fleet: Fleet) -> Callable[[], psutil.Popen]:
    """worker(): a worker process that runs tests/support/runners/bulky.py."""
    return lambda **more: fleet.worker(EXPUNGE_RUNNER="tests.support.runners.bulky:run", **more)


def children(worker: psutil.Popen) -> list[psutil.Process]:
    until(worker.children)
    return worker.children()


def listed(fleet: Fleet, job_id: uuid.UUID) -> list[Artifact]:
    with db.transaction(fleet.url) as session:
        return list(artifacts.list_of_job(session, fleet.tenant_id, job_id))


def notes(fleet: Fleet, job_id: uuid.UUID) -> dict[str, str]:
    return {
        event.data["code"]: event.data["message"] for event in fleet.events(job_id) if event.type == "note"
    }


def retry(fleet: Fleet, job_id: uuid.UUID) -> uuid.UUID:
    with db.transaction(fleet.url) as session:
        made = jobs.retry(session, fleet.tenant_id, job_id).id
    fleet.accepted.append(made)
    return made


@contextmanager
def full_disk(fleet: Fleet, worker: Callable[[], psutil.Popen]) -> Iterator[Callable[[], object]]:
    """The artifact store on a file system of one mebibyte, a worker beside it; gives what makes room."""
    folder = fleet.folder / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs", str(folder)], capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("no right to mount a small file system")
    try:
        fleet.settings = fleet.settings.model_copy(update={"artifacts_url": folder.as_uri()})
        worker()
        yield lambda: subprocess.run(["mount", "-o", "remount,size=64m", str(folder)], check=True)
    finally:
        try:
            ledger.close(fleet)
        finally:
            subprocess.run(["umount", "-l", str(folder)], check=True)


@contextmanager
def file_size_limit(fleet: Fleet, worker: Callable[[], psutil.Popen]) -> Iterator[Callable[[], object]]:
    """A worker whose files may have one mebibyte; gives what allows it more."""
    parent = worker()
    children(parent)

    def limit(size: int) -> None:
        # The pool's process may be forked later than the self test's
        for process in (parent, *parent.children(recursive=True)):
            process.rlimit(psutil.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    limit(MIB)
    yield lambda: limit(resource.RLIM_INFINITY)


@pytest.mark.parametrize("limited", [full_disk, file_size_limit])
@pytest.mark.parametrize("at", ["checkpoint", "publish"])
def test_f19_a_full_disk_fails_the_job_so_that_a_retry_helps_and_leaves_no_partial_file(
    fleet, worker, limited, at
):
    """F19: at a checkpoint, and at the publication."""
    output = fleet.folder / "output"
    output.write_bytes(BYTES)
    spec = (
        {"checkpoint_bytes": 3 * MIB, "every": 2}
        if at == "checkpoint"
        else {"file": str(output), "every": 1000}
    )
    fleet.loops()
    with limited(fleet, worker) as make_room:
        fleet.fault(f"disk full at {at}", costs=1)
        job_id = fleet.post(steps=4, max_attempts=2, **spec)
        error = fleet.until_status(job_id, "failed").error
        assert (error["code"], error["retryable"], error["attempt"]) == ("storage_error", True, 2)
        stored = Path(fleet.settings.artifacts_url.removeprefix("file://"))
        left = [path for path in stored.rglob("*") if path.is_file() and path.name != MARKER]
        assert [path for path in left if path.stat().st_size > 1] == [], (
            "the checkpoint's small file may wait for the sweep"
        )
        assert listed(fleet, job_id) == []
        make_room()
        again = retry(fleet, job_id)
        fleet.until_status(again, "succeeded", "failed")
        assert fleet.job(again).status == "succeeded", fleet.job(again).error


@pytest.fixture(params=["directory", "s3"])
def stored(request: pytest.FixtureRequest, fleet: Fleet) -> Blobs:
    """The artifact store of the fleet."""
    if request.param == "s3":
        fleet.settings = fleet.settings.model_copy(
            update={"artifacts_url": request.getfixturevalue("bucket")}
        )
    return Blobs(fleet.settings.artifacts_url)


@contextmanager
def uncommitted(fleet: Fleet, job_id: uuid.UUID) -> Iterator[None]:
    """Nobody can change the job's row meanwhile, so that no publication commits."""
    with psycopg.connect(fleet.url) as connection:
        connection.execute("select 1 from jobs where id = %s for update", [job_id])
        yield
        connection.rollback()


def known(fleet: Fleet) -> uuid.UUID:
    """The database's deployment."""
    with db.transaction(fleet.url) as session:
        return deployment.get_deployment(session).id


def keys(blobs: Blobs) -> set[str]:
    """What is stored; not the marker, nor what was set aside."""
    return set(keys_older_than(blobs, timedelta(seconds=-60)))


def published_once(fleet: Fleet, blobs: Blobs, job_id: uuid.UUID) -> None:
    """The job ends well, and after a sweep the store holds its artifact, whole, and nothing else."""
    fleet.until_status(job_id, "succeeded", "failed")
    assert fleet.job(job_id).status == "succeeded", fleet.job(job_id).error
    (row,) = listed(fleet, job_id)
    assert row.sha256 == hashlib.sha256(BYTES).hexdigest() == blobs.hash(row.key)[1]
    sweeper.turn(fleet.settings.model_copy(update={"sweep_after_seconds": -60}))
    assert keys(blobs) == {row.key}
    if blobs.folder is not None:
        assert ledger.keys_of(blobs) == [row.key]


def test_f20_what_is_uploaded_but_not_committed_is_not_listed_and_a_takeover_publishes_it_once(
    fleet, worker, stored
):
    """F20, killed between upload and commit."""
    output = fleet.folder / "output"
    output.write_bytes(BYTES)
    fleet.loops()
    first = worker()
    job_id = fleet.post(steps=2, every=1000, file=str(output), wait=True)
    fleet.until_step(job_id, 2)
    with uncommitted(fleet, job_id):
        fleet.go.touch()
        until(lambda: any(stored.hash(key)[0] == len(BYTES) for key in keys(stored)))
        fleet.signal(first, signal.SIGKILL)
    assert listed(fleet, job_id) == []
    orphans = keys(stored)
    worker()
    published_once(fleet, stored, job_id)
    assert not orphans & keys(stored)
    assert fleet.job(job_id).attempt == 2


def test_f20_an_upload_killed_half_way_leaves_nothing_that_can_be_seen(fleet, worker, bucket, monkeypatch):
    """F20, killed during the upload: S3 has the first mebibyte when the worker dies."""
    output = fleet.folder / "output"
    output.write_bytes(BYTES)
    fleet.settings = fleet.settings.model_copy(update={"artifacts_url": bucket})
    fleet.loops()
    blobs = Blobs(bucket)
    with stalling(os.environ["AWS_ENDPOINT_URL"], MIB) as line:
        first = worker(AWS_ENDPOINT_URL=line.url)
        job_id = fleet.post(steps=2, every=1000, file=str(output))
        assert line.held.wait(60)
        fleet.signal(first, signal.SIGKILL)
    assert keys(blobs) == set()
    assert listed(fleet, job_id) == []
    worker()
    published_once(fleet, blobs, job_id)


def test_f20_a_directory_upload_killed_half_way_leaves_nothing_that_can_be_seen(fleet, worker):
    """F20, killed during the upload to a directory: its half-written file is under no key, and is swept."""
    blobs = Blobs(fleet.settings.artifacts_url)
    key = output_key(fleet.tenant_id, uuid.uuid4(), 1, 1)
    code = (
        "import os, resource, signal, sys; from expunge.store.blobs import Blobs\n"
        # The kernel kills the process in the middle of its write
        "signal.signal(signal.SIGXFSZ, signal.SIG_DFL)\n"
        "resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); resource.setrlimit(resource.RLIMIT_FSIZE, (1 <<"
        " 20, 1 << 20))\n"
        "Blobs(sys.argv[1]).put(sys.argv[2], bytes(3 << 20))"
    )
    died = subprocess.run(
        [sys.executable, "-c", code, fleet.settings.artifacts_url, key],
        env=fleet.environment(),
        capture_output=True,
    )
    assert died.returncode == -signal.SIGXFSZ, died.stderr
    (half,) = [path for path in blobs.folder.rglob("*") if path.is_file()]
    assert half.stat().st_size == MIB
    assert keys(blobs) == set()
    deployment.write_marker(blobs, known(fleet))
    blobs.put(key, BYTES)
    assert blobs.hash(key)[0] == len(BYTES)
    sweeper.turn(fleet.settings.model_copy(update={"sweep_after_seconds": -60}))
    assert not half.exists()


@pytest.fixture
def service(settings: Settings) -> Iterator[Tenant]:
    """A tenant of a service of this test's own."""
    with serve(settings.model_copy(update={"secret": type(settings.secret)(SECRET)})) as (url, app):
        made = Tenant(url, app.state.services.settings)
        yield made
        for client in made.clients:
            client.close()


@pytest.fixture(params=["directory", "s3"])
def settings_of(request: pytest.FixtureRequest, settings: Settings) -> Settings:
    url = request.getfixturevalue("bucket") if request.param == "s3" else settings.artifacts_url
    return settings.model_copy(
        update={"secret": type(settings.secret)(SECRET), "artifacts_url": url, "metrics_public": True}
    )


def test_f21_a_flipped_bit_is_never_served_and_the_verifier_finds_it(settings_of, tmp_path):
    """F21."""
    with serve(settings_of) as (url, app):
        tenant = Tenant(url, app.state.services.settings)
        found, asked = tenant.finish(tenant.erase()["id"], {"a.bin": BYTES, "b.bin": BYTES}, tmp_path)
        client, flipped = tenant.http(), bytearray(BYTES)
        flipped[1_234_567] ^= 1
        for made in (found, asked):
            assert client.get(f"/artifacts/{made.id}/content").content == BYTES
            obstore.put(Blobs(settings_of.artifacts_url).store, made.key, bytes(flipped))
        # Nobody had looked at it
        problem(client.get(f"/artifacts/{asked.id}/content"), 500, "artifact_corrupt")
        with db.transaction(tenant.database) as session:
            session.execute(text("update artifacts set verified_at = now() - interval '8 days'"))
        verifier.turn(settings_of)
        for made in (found, asked):
            assert client.get(f"/artifacts/{made.id}").json()["corrupt_at"] is not None
            for headers in (
                {},
                {"Range": "bytes=0-9"},
                {"Range": "bytes=2000000-", "If-Range": f'"{made.sha256}"'},
            ):
                problem(client.get(f"/artifacts/{made.id}/content", headers=headers), 500, "artifact_corrupt")
            problem(client.post(f"/artifacts/{made.id}/link"), 500, "artifact_corrupt")
        assert "expunge_corrupt_artifacts 2.0" in httpx.get(f"{url}/metrics").text


def test_f23_a_run_that_does_not_fit_is_begun_once_with_half_the_batch_and_gradient_checkpointing(
    fleet, worker
):
    """F23, out of memory: the second try fits."""
    fleet.loops(), worker()
    job_id = fleet.post(
        steps=3, fits=2, method={"name": "esd", "batch_size": 4, "gradient_checkpointing": None}
    )
    done = fleet.until_status(job_id, "succeeded", "failed")
    assert (done.status, done.attempt) == ("succeeded", 1), done.error
    assert "batch_size 2" in notes(fleet, job_id)["out_of_memory"]
    assert "gradient_checkpointing" in notes(fleet, job_id)["out_of_memory"]
    (row,) = listed(fleet, job_id)
    ran = b"".join(Blobs(fleet.settings.artifacts_url).read(row.key)).decode()
    assert "'batch_size': 2" in ran
    assert "'gradient_checkpointing': True" in ran
    assert done.spec["method"]["batch_size"] == 4, "the row keeps what was asked for"


def test_f23_a_run_that_does_not_fit_twice_fails_clearly_and_the_worker_goes_on(fleet, worker):
    """F23, out of memory: not retried blindly."""
    fleet.loops(), worker()
    job_id = fleet.post(
        steps=3, fits=1, method={"name": "esd", "batch_size": 8, "gradient_checkpointing": False}
    )
    error = fleet.until_status(job_id, "succeeded", "failed").error
    assert (error["code"], error["retryable"], error["attempt"]) == ("out_of_memory", False, 1)
    assert "method.batch_size" in error["message"]
    assert [event.data.get("code") for event in fleet.events(job_id)].count("out_of_memory") == 1
    fleet.until_status(fleet.post(steps=3), "succeeded")


def test_f23_a_run_that_has_nothing_to_save_fails_at_once(fleet, worker):
    """F23, out of memory: batch 1 with gradient checkpointing already."""
    fleet.loops(), worker()
    job_id = fleet.post(
        steps=3, fits=0, method={"name": "esd", "batch_size": 1, "gradient_checkpointing": True}
    )
    assert fleet.until_status(job_id, "succeeded", "failed").error["code"] == "out_of_memory"
    assert "out_of_memory" not in notes(fleet, job_id)


def test_f23_a_loss_that_is_no_number_fails_with_its_step_and_the_last_good_checkpoint_stays(fleet, worker):
    """F23, NaN."""
    fleet.loops(), worker()
    job_id = fleet.post(steps=12, every=3, nan=7)
    error = fleet.until_status(job_id, "succeeded", "failed").error
    assert (error["code"], error["attempt"]) == ("loss_not_finite", 1)
    assert "step 8 of 12" in error["message"]
    with db.transaction(fleet.url) as session:
        newest = attempts.list_checkpoints(session, job_id)[0]
    assert newest.step == 6
    blobs = Blobs(fleet.settings.artifacts_url)
    assert {name: blobs.read_all(file["key"], file["sha256"]) for name, file in newest.files.items()}[
        "step"
    ] == b"6"


def test_f25_a_download_dropped_at_37_percent_is_resumed_to_the_same_bytes(service, tmp_path):
    """F25."""
    (made,) = service.finish(service.erase()["id"], {"a.bin": BYTES}, tmp_path)
    client, path, had = service.http(), f"/artifacts/{made.id}/content", bytearray()
    with client.stream("GET", path) as answer:
        etag = answer.headers["etag"]
        for chunk in answer.iter_raw(10_000):
            had += chunk
            if len(had) >= 0.37 * len(BYTES):
                break
    rest = client.get(path, headers={"Range": f"bytes={len(had)}-", "If-Range": etag})
    assert rest.status_code == 206
    assert rest.headers["content-range"] == f"bytes {len(had)}-{len(BYTES) - 1}/{len(BYTES)}"
    assert hashlib.sha256(had + rest.content).hexdigest() == made.sha256
    other = client.get(path, headers={"Range": f"bytes={len(had)}-", "If-Range": '"another"'})
    assert (other.status_code, other.content) == (200, BYTES)
    beyond = client.get(path, headers={"Range": f"bytes={len(BYTES)}-", "If-Range": etag})
    problem(beyond, 416, "range_not_satisfiable")
    assert beyond.headers["content-range"] == f"bytes */{len(BYTES)}"


def test_f25_a_link_s_download_is_resumed_too(service, tmp_path):
    """F25, without an API key."""
    (made,) = service.finish(service.erase()["id"], {"a.bin": BYTES}, tmp_path)
    url = service.http().post(f"/artifacts/{made.id}/link").json()["url"]
    rest = httpx.get(url, headers={"Range": "bytes=1110000-", "If-Range": f'"{made.sha256}"'})
    assert (rest.status_code, rest.content) == (206, BYTES[1_110_000:])
