"""Workers whose hosts are broken: they burn no job, say so, and take jobs again once they are mended."""

import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from expunge.store import db, workers
from expunge.store.models import Worker
from tests.support.cluster import Fleet, until
from tests.support.places import ROOT

ECC = "CUDA error: uncorrectable ECC error encountered"
Start = Callable[..., tuple[psutil.Popen, Path]]


@pytest.fixture
def host(fleet: Fleet) -> Start:
    """host(name, **environment): a worker that runs tests/support/runners/broken.py, and the folder that
    breaks it.
    """

    def start(name: str, **more: str) -> tuple[psutil.Popen, Path]:
        folder = fleet.folder / name
        folder.mkdir(exist_ok=True)
        return fleet.worker(
            EXPUNGE_RUNNER="tests.support.runners.broken:run", BROKEN=str(folder), **more
        ), folder

    return start


def rows(fleet: Fleet) -> dict[int, Worker]:
    """Workers' rows by their pid."""
    with db.transaction(fleet.url) as session:
        return {row.pid: row for row in session.query(Worker)}


def in_state(fleet: Fleet, worker: psutil.Popen, state: str) -> Callable[[], bool]:
    return lambda: worker.pid in rows(fleet) and rows(fleet)[worker.pid].state == state


def health(fleet: Fleet) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "expunge.worker.health"],
        env=fleet.environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout


def test_f32_a_broken_gpu_fails_no_job_while_another_worker_lives(fleet, host):
    """F32: one worker of two raises an ECC error in every run: the other takes all its jobs, and it is
    suspended after three.
    """
    bad, folder = host("bad")
    (folder / "run").write_text(ECC)
    until(in_state(fleet, bad, "ready"))
    (folder / "test").write_text(ECC)  # from now on its self test finds it too
    ids = [fleet.post(steps=2, every=1) for _ in range(6)]
    fleet.fault("broken GPU", costs=3)
    fleet.loops()
    until(in_state(fleet, bad, "suspended"))
    good, _ = host("good")
    until(in_state(fleet, good, "ready"))
    for job_id in ids:
        assert fleet.until_status(job_id, "succeeded", "failed").status == "succeeded", fleet.job(
            job_id
        ).error
    assert sum(fleet.job(job_id).attempt for job_id in ids) == 9, "three attempts were charged, no more"
    assert in_state(fleet, bad, "suspended")()
    assert "ECC" in rows(fleet)[bad.pid].reason
    assert "worker_suspended" in (fleet.folder / "process-0.log").read_text()
    with db.transaction(fleet.url) as session:
        assert workers.count_by_state(session) == {"starting": 0, "ready": 1, "suspended": 1, "lost": 0}


def test_f32_a_broken_worker_that_is_alone_keeps_its_queue_and_runs_it_once_it_is_mended(fleet, host):
    """F32: the only worker breaks and is mended: what waited meanwhile was charged nothing, and all jobs
    succeed.
    """
    bad, folder = host("bad")
    until(in_state(fleet, bad, "ready"))
    for name in ("run", "test"):
        (folder / name).write_text(ECC)
    ids = [fleet.post(steps=2, every=1) for _ in range(5)]
    fleet.fault("broken GPU", costs=3)
    fleet.loops()
    until(in_state(fleet, bad, "suspended"))
    code, text = health(fleet)
    assert (code, "suspended: " in text) == (1, True)
    assert [fleet.job(job_id).status for job_id in ids] == ["queued"] * 5
    for name in ("run", "test"):
        (folder / name).unlink()
    for job_id in ids:
        assert fleet.until_status(job_id, "succeeded", "failed").status == "succeeded", fleet.job(
            job_id
        ).error
    assert sum(fleet.job(job_id).attempt for job_id in ids) == 8
    assert health(fleet)[0] == 0


def test_f32_a_worker_whose_self_test_fails_at_the_start_claims_nothing_and_says_why(fleet, host):
    """F32: a host that is broken before the first job."""
    (fleet.folder / "bad").mkdir()
    (fleet.folder / "bad" / "test").write_text("no CUDA-capable device is detected")
    bad, folder = host("bad")
    fleet.loops()
    job_id = fleet.post(steps=1)
    until(in_state(fleet, bad, "suspended"))
    assert "no CUDA-capable device" in rows(fleet)[bad.pid].reason
    assert fleet.job(job_id).status == "queued"
    (folder / "test").unlink()
    assert fleet.until_status(job_id, "succeeded").attempt == 1


def test_f32_an_error_that_nobody_foresaw_is_the_jobs_when_another_worker_meets_it_too(fleet, host):
    """F32: an unforeseen error goes to the other worker once, then ends the job; the workers are not to
    blame.
    """
    fleet.loops()
    first, second = host("first")[0], host("second")[0]
    until(lambda: in_state(fleet, first, "ready")() and in_state(fleet, second, "ready")())
    ids = [fleet.post(steps=1, wants="secret detail") for _ in range(4)]
    fleet.fault("unforeseen error", costs=4)
    for job_id in ids:
        error = fleet.until_status(job_id, "failed").error
        assert (error["code"], error["retryable"], error["attempt"]) == ("internal_error", False, 2)
        assert len(set(fleet.job(job_id).failed_on)) == 1
    assert {row.state for row in rows(fleet).values()} == {"ready"}
    refused = {str(row.id) for row in rows(fleet).values()}
    assert {who for job_id in ids for who in fleet.job(job_id).failed_on} <= refused


def test_f32_a_worker_that_can_make_no_folder_for_temporary_files_leaves_its_jobs_to_others(
    fleet, host, tmp_path
):
    """F32: /tmp fails after the claim, before the run: the attempt is charged, the job goes elsewhere, no
    lease has to run out.
    """
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    fleet.loops()
    bad, _ = host("bad", TMPDIR=str(scratch))
    fleet.until_status(fleet.post(steps=1), "succeeded")
    good, _ = host("good")
    until(in_state(fleet, good, "ready"))
    shutil.rmtree(scratch)
    ids = [fleet.post(steps=12, pause_ms=200) for _ in range(7)]  # long enough for the bad one to take three
    fleet.fault("no /tmp", costs=3)
    for job_id in ids:
        assert fleet.until_status(job_id, "succeeded", "failed").status == "succeeded", fleet.job(
            job_id
        ).error
    log = fleet.folder / f"process-{fleet.processes.index(bad)}.log"
    assert "the last one because storage_error" in log.read_text()
    # Its self test looks where its processes do
    until(lambda: "the folder for temporary files" in (rows(fleet)[bad.pid].reason or ""))
    assert in_state(fleet, bad, "suspended")()
    scratch.mkdir()
    until(in_state(fleet, bad, "ready"))
    passed_on = [job_id for job_id in ids if fleet.job(job_id).failed_on]
    assert len(passed_on) == 3
    assert {
        event.data.get("reason")
        for job_id in passed_on
        for event in fleet.events(job_id)
        if event.type == "requeued"
    } == {"storage_error"}


def test_f4_a_library_whose_loading_is_cut_off_by_a_stop_costs_no_attempt_and_blames_nobody(fleet, host):
    """F4: SIGTERM while the run loads its libraries, which end in an ImportError."""
    fleet.loops()
    first, folder = host("first")
    until(in_state(fleet, first, "ready"))
    (folder / "loading").touch()
    job_id = fleet.post(steps=1)
    until(lambda: not (folder / "loading").exists())
    first.send_signal(signal.SIGTERM)
    assert first.wait(60) == 0
    assert (fleet.job(job_id).status, fleet.job(job_id).attempt, fleet.job(job_id).failed_on) == (
        "queued",
        0,
        [],
    )
    assert [e.data["reason"] for e in fleet.events(job_id) if e.type == "requeued"] == ["worker_shutdown"]
    host("second")
    assert fleet.until_status(job_id, "succeeded").attempt == 1


def test_f32_a_worker_without_the_model_leaves_its_jobs_to_one_that_has_it(fleet, host):
    """F32: jobs of two models, a worker for each; nobody takes the other's, and what no worker has waits."""
    fleet.loops()
    one = host("one", EXPUNGE_MODELS='{"a": "bundled:emoji", "c": "/nowhere/at/all"}')[0]
    until(in_state(fleet, one, "ready"))
    ids = {name: [fleet.post(steps=1, model=name) for _ in range(3)] for name in "abc"}
    for job_id in ids["a"]:
        fleet.until_status(job_id, "succeeded")
    assert {fleet.job(job_id).attempt for name in "bc" for job_id in ids[name]} == {0}
    assert list(rows(fleet)[one.pid].problems) == ["c"]
    with db.transaction(fleet.url) as session:
        missing = {name: f"no worker has the model '{name}'" for name in "bc"}
        assert workers.blocked_models(session) == workers.blocked_models(session, fleet.tenant_id) == missing
        assert workers.blocked_models(session, uuid.uuid4()) == {}
    host("two", EXPUNGE_MODELS='{"b": "bundled:emoji"}')
    for job_id in ids["b"]:
        fleet.until_status(job_id, "succeeded")
    assert [fleet.job(job_id).attempt for job_id in ids["c"]] == [0] * 3
    for job_id in ids["c"]:
        fleet.cancel(job_id)


def test_f32_a_worker_that_no_longer_hears_the_broker_ends_so_that_it_is_started_again(fleet):
    """F32: Celery lives, and listens where nobody rings."""
    fleet.loops()
    deaf = fleet.start(
        "celery",
        "-A",
        "expunge.worker.app",
        "worker",
        "-c",
        "1",
        "-Q",
        "elsewhere",
        "-l",
        "WARNING",
        EXPUNGE_DEAF_SECONDS="1.5",
        EXPUNGE_HEARTBEAT_SECONDS="0.3",
    )
    job_id = fleet.post(steps=1)
    assert deaf.wait(60) != 0
    assert "worker_deaf" in (fleet.folder / "process-1.log").read_text()
    fleet.worker()
    fleet.until_status(job_id, "succeeded")
