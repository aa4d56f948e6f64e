"""The worker's parts on a real database, without processes to kill."""

import errno
import subprocess
import sys
import threading
import uuid
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
import redis
from kombu import Connection
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from expunge.core.errors import CoreError
from expunge.store import artifacts, attempts, db, jobs
from expunge.store.blobs import Blobs, output_key, upload_key
from expunge.store.errors import LostLease
from expunge.store.models import Job
from expunge.store.queue_announcements import QUEUE
from expunge.worker import dispatcher, keeper as keeping, reaper, stale_messages, sweeper
from expunge.worker.checkpoints import JobCheckpoints
from expunge.worker.leader import lead
from expunge.worker.lease import Lease
from expunge.worker.runner import Inputs
from expunge.worker.stop import Cancelled, DeadlineExceeded
from expunge.worker.task import explain
from tests.support.events import events_of
from tests.support.stored import keys_older_than

LEASE = timedelta(seconds=60)


@pytest.fixture
def url(settings) -> str:
    return settings.database_url.get_secret_value()


@pytest.fixture
def job(url, tenant) -> Job:
    """A claimed job."""
    with db.transaction(url) as session:
        job_id = jobs.create_job(session, tenant.id, "erase", {}).id
    with db.transaction(url) as session:
        claimed = attempts.claim(session, job_id, owner="test", lease=LEASE)
    assert claimed is not None
    return claimed


@pytest.fixture
def lease(settings, job) -> Lease:
    return Lease(settings, job)


def shown(url: str, job: Job) -> Job:
    with db.transaction(url) as session:
        return jobs.get(session, job.tenant_id, job.id)


def event_types(url: str, job: Job) -> list[str]:
    with db.transaction(url) as session:
        return [event.type for event in events_of(session, job.tenant_id, job.id)]


def test_a_phase_is_told_at_once_and_steps_at_most_once_an_interval(settings, job, url):
    lease = Lease(settings.model_copy(update={"progress_seconds": 3600}), job)
    for step in range(1, 6):
        lease({"phase": "load", "step": step, "total": 9})
    assert shown(url, job).progress["step"] == 1
    lease({"phase": "erase", "step": 1, "total": 9})
    assert shown(url, job).progress["phase"] == "erase"
    lease({"phase": "erase", "step": 2, "total": 9, "message": "resumed"})
    assert shown(url, job).progress["message"] == "resumed"
    lease({"phase": "erase", "step": 9, "total": 9})
    assert shown(url, job).progress["step"] == 9
    assert event_types(url, job).count("progress") == 4


def test_a_report_that_waited_is_written_with_the_heartbeat(settings, job, url):
    lease = Lease(settings, job)
    lease({"phase": "erase", "step": 1, "total": 9})
    lease.settings = settings.model_copy(update={"progress_seconds": 3600})
    lease({"phase": "erase", "step": 2, "total": 9})
    assert shown(url, job).progress["step"] == 1
    lease.settings = settings
    lease.send_heartbeat()
    assert shown(url, job).progress["step"] == 2


def test_numbers_that_json_lacks_become_null(lease, job, url):
    lease({"phase": "erase", "step": 1, "total": 2, "loss": float("nan"), "eta_s": float("inf")})
    assert shown(url, job).progress == {"phase": "erase", "step": 1, "total": 2, "loss": None, "eta_s": None}


def test_a_cancellation_stops_the_run_at_its_next_report(lease, job, url):
    with db.transaction(url) as session:
        jobs.cancel(session, job.tenant_id, job.id)
    lease.send_heartbeat()
    with pytest.raises(Cancelled):
        lease({"phase": "erase", "step": 1})


def test_a_deadline_stops_the_run_at_its_next_report(lease, job, url):
    with db.transaction(url) as session:
        session.execute(text("update jobs set run_deadline_at = now() - interval '1 s'"))
    lease.send_heartbeat()
    with pytest.raises(DeadlineExceeded):
        lease({"phase": "erase", "step": 1})


def test_a_lost_lease_stops_the_run(lease, job, url):
    with db.transaction(url) as session:
        session.execute(text("update jobs set fence = fence + 1"))
    with pytest.raises(LostLease):
        lease.send_heartbeat()
    with pytest.raises(LostLease):
        lease({"phase": "erase", "step": 1})


def test_tensors_come_back_from_a_checkpoint_bit_by_bit(settings, lease):
    import torch

    checkpoints = JobCheckpoints(lease, Blobs(settings.artifacts_url), keep=2)
    assert checkpoints.load() is None
    tensors = {
        "a": torch.randn(3, 4),
        "half": torch.randn(5).half(),
        "view": torch.arange(12).reshape(3, 4).T,
    }
    checkpoints.save(7, tensors, {"step": 7, "history": [{"loss": 0.1}]})
    loaded, meta = checkpoints.load()
    assert meta == {"step": 7, "history": [{"loss": 0.1}]}
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())


def test_replaced_checkpoints_leave_no_bytes_behind(settings, lease):
    blobs = Blobs(settings.artifacts_url)
    checkpoints = JobCheckpoints(lease, blobs, keep=2)
    for step in range(5):
        checkpoints.save_files(step, {"state": bytes([step])})
    assert len(list(keys_older_than(blobs, timedelta(seconds=-5)))) == 2
    assert checkpoints.load_files() == {"state": b"\x04"}


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        ("犬" * 200 + ".png", ".png"),
        ("x" * 255, ""),
        ("a.b/../c.safetensors", ".safetensors"),
        (f"a.{'y' * 200}", ""),
    ],
)
def test_inputs_lie_in_files_named_by_their_ids(settings, job, url, tmp_path, name, suffix):
    key, content = upload_key(job.tenant_id), b"bytes"
    size, sha256 = Blobs(settings.artifacts_url).put(key, content)
    with db.transaction(url) as session:
        row = artifacts.add_upload(
            session,
            job.tenant_id,
            name=name,
            media_type="image/png",
            size=size,
            sha256=sha256,
            key=key,
            info={},
        )
    found = Inputs(job, tmp_path, settings).fetch_upload(str(row.id), "artifact_id", "delta")
    assert (found.name, found.read_bytes()) == (f"{row.id}{suffix}", content)


def test_a_prompt_set_is_an_upload_or_a_file_of_this_worker(settings, job, url, tmp_path):
    named = tmp_path / "own.csv"
    named.write_text("prompt\na\n")
    here = settings.model_copy(update={"prompt_sets": {"own": str(named), "gone": "/nowhere.csv"}})
    inputs = Inputs(job, tmp_path, here)
    assert inputs.fetch_prompt_set("own") == named
    for name in ("gone", "other", str(uuid.uuid4())):
        with pytest.raises(CoreError, match=r"^evaluation\.prompts: .*prompt set") as caught:
            inputs.fetch_prompt_set(name)
        assert (caught.value.code, caught.value.field) == ("input_not_found", "evaluation.prompts")
    key = upload_key(job.tenant_id)
    size, sha256 = Blobs(settings.artifacts_url).put(key, named.read_bytes())
    with db.transaction(url) as session:
        facts = {"name": "p.csv", "media_type": "text/csv", "size": size, "sha256": sha256, "key": key}
        row = artifacts.add_upload(session, job.tenant_id, **facts)
    assert inputs.fetch_prompt_set(str(row.id)).read_bytes() == named.read_bytes()


def test_all_checkpoints_damaged_means_starting_over(settings, lease, url, job):
    blobs = Blobs(settings.artifacts_url)
    checkpoints = JobCheckpoints(lease, blobs, keep=2)
    for step in range(2):
        checkpoints.save_files(step, {"state": bytes(9)})
    for key in keys_older_than(blobs, timedelta(seconds=-5)):
        (blobs.folder / key).write_bytes(b"")
    assert checkpoints.load_files() is None
    assert event_types(url, job).count("note") == 2


def test_the_sweep_spares_what_rows_name_and_what_is_young(settings, lease, url, job):
    blobs = Blobs(settings.artifacts_url)
    JobCheckpoints(lease, blobs, keep=2).save_files(1, {"state": b"x"})
    orphan = output_key(job.tenant_id, job.id, 1, 1)
    blobs.put(orphan, b"x")
    sweeper.turn(settings)
    assert orphan in list(keys_older_than(blobs, timedelta(seconds=-5)))
    hasty = settings.model_copy(update={"sweep_after_seconds": -5})
    sweeper.turn(hasty)
    left = list(keys_older_than(blobs, timedelta(seconds=-5)))
    assert len(left) == 1
    assert left != [orphan]
    with db.transaction(url) as session:
        attempts.fail(session, job.id, job.fence, code="c", message="m", retryable=False)
    sweeper.turn(hasty)
    assert list(keys_older_than(blobs, timedelta(seconds=-5))) == []


def test_a_long_queue_of_messages_is_not_made_longer(settings, url, tenant, monkeypatch):
    monkeypatch.setattr(dispatcher, "MAX_WAITING", 3)
    eager = settings.model_copy(update={"dispatch_seconds": 0, "redispatch_after_seconds": 0})
    with db.transaction(url) as session:
        for _ in range(2):
            jobs.create_job(session, tenant.id, "erase", {})
    with redis.Redis.from_url(settings.redis_url.get_secret_value()) as client:
        for expected in (2, 4, 4):
            dispatcher.turn(eager)
            assert client.llen(QUEUE) == expected


def test_a_job_announced_while_redis_was_away_is_announced_again(settings, url, tenant):
    from pydantic import SecretStr

    away = settings.model_copy(
        update={"redis_url": SecretStr("redis://127.0.0.1:1/0"), "dispatch_seconds": 0}
    )
    with db.transaction(url) as session:
        jobs.create_job(session, tenant.id, "erase", {})
    dispatcher.turn(away)
    with db.transaction(url) as session:
        assert session.scalar(text("select dispatched_at from jobs")) is None


def test_messages_of_ended_jobs_are_dropped_though_their_worker_never_acknowledges_them(
    settings, url, job, tenant
):
    """A dead worker's messages: Redis alone would keep them for the visibility timeout. Another
    deployment's, on the same Redis, stay.
    """
    broker = settings.redis_url.get_secret_value()
    with db.transaction(url) as session:
        ended = jobs.create_job(session, tenant.id, "erase", {})
        jobs.cancel(session, tenant.id, ended.id)
    elsewhere = uuid.uuid4()
    dispatcher.send_messages(broker, [str(job.id), str(ended.id), str(ended.id), str(elsewhere)])
    with Connection(broker) as connection, redis.Redis.from_url(broker) as client:
        queue = connection.SimpleQueue(QUEUE)
        for _ in range(4):
            queue.get(timeout=5)
        client.hset("unacked", "another's", b"[{}]")
        assert client.hlen("unacked") == 5
        stale_messages.turn(settings)
        left = client.hgetall("unacked")
        left.pop(b"another's")
        assert {stale_messages.job_id_of(message) for message in left.values()} == {job.id, elsewhere}
        assert client.zcard("unacked_index") == 2
        with db.transaction(url) as session:
            attempts.fail(session, job.id, job.fence, code="c", message="m", retryable=False)
        stale_messages.turn(settings)
        left = client.hgetall("unacked")
        assert {stale_messages.job_id_of(message) for message in left.values()} == {None, elsewhere}
        assert b"another's" in left


def test_without_redis_no_message_is_dropped_and_the_loop_goes_on(settings):
    from pydantic import SecretStr

    stale_messages.turn(settings.model_copy(update={"redis_url": SecretStr("redis://127.0.0.1:1/0")}))


def test_the_reaper_takes_the_dead_workers_job(settings, url, job):
    with db.transaction(url) as session:
        session.execute(text("update jobs set lease_expires_at = now() - interval '1 s'"))
    reaper.turn(settings)
    assert shown(url, job).status == "queued"


def test_a_loop_outlives_an_error_and_the_loss_of_its_connection(settings, url):
    stop, turns = threading.Event(), list[int]()

    def turn(_: object) -> None:
        turns.append(len(turns))
        if len(turns) == 1:
            raise RuntimeError("a bad turn")
        if len(turns) == 2:
            with db.transaction(url) as session:
                session.execute(
                    text(
                        "select pg_terminate_backend(pid) from pg_locks where locktype = 'advisory' and pid"
                        " <> pg_backend_pid()"
                    )
                )
        if len(turns) == 4:
            stop.set()

    lead("test", settings, 0.05, turn, stop)
    assert len(turns) == 4


@pytest.mark.parametrize(
    ("error", "code", "retryable"),
    [
        (CoreError("loss_not_finite", "m", retryable=False), "loss_not_finite", False),
        (OSError(errno.ENOSPC, "No space left on device"), "storage_error", True),
        (OSError(errno.ENOENT, "/secret/path"), "internal_error", False),
        (MemoryError(), "out_of_memory", True),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"), "out_of_memory", False),
        (ValueError("secret detail"), "internal_error", False),
    ],
)
def test_errors_are_told_by_a_stable_code_and_without_their_inside(error, code, retryable):
    told = explain(error)
    assert (told[0], told[2]) == (code, retryable)
    assert "secret" not in told[1]


def test_the_parent_process_loads_no_torch():
    script = (
        "import sys, expunge.worker.app, expunge.worker.task, expunge.worker.loops; print([m for m in"
        " ('torch', 'diffusers', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        check=True,
    )
    assert done.stdout.strip() == "[]"


def test_celery_takes_json_only_and_never_redelivers_a_slow_job():
    from expunge.worker.app import app

    assert app.conf.accept_content == ["json"]
    assert app.conf.task_ignore_result
    assert app.conf.task_acks_late
    waits = (
        app.conf.broker_transport_options,
        app.conf.result_backend_transport_options,
        {"visibility_timeout": app.conf.visibility_timeout},
    )
    assert {options["visibility_timeout"] for options in waits} == {43_200}


def test_a_message_for_an_unknown_job_does_nothing(settings):
    from expunge.worker.task import run_attempt

    assert run_attempt(settings, uuid.uuid4()) is None


def test_no_child_is_forked_while_the_worker_s_own_thread_writes_a_log_line(settings, monkeypatch):
    """It would inherit standard output's lock, taken for ever, and stop at its first line, with a job
    claimed.
    """
    held: list[bool] = []

    def write(*_: object, **__: object) -> None:
        held.append(keeping.WORKING.locked())

    monkeypatch.setattr(keeping, "log", SimpleNamespace(warning=write, exception=write))
    keeper = keeping.Keeper(settings)
    keeper.over.set()  # so that it does not wait after an error

    def fail(error: Exception) -> None:
        raise error

    keeper.guard("worker_row_not_deleted", lambda: fail(OperationalError("select 1", {}, Exception())))
    keeper.guard("worker_row_not_deleted", lambda: fail(RuntimeError()))
    assert held == [True, True]
    assert not keeping.WORKING.locked()
