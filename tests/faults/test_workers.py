"""Real workers, killed, frozen, cancelled and robbed of their broker."""

import base64
import json
import signal
import threading
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import psutil
import pytest
import redis

from expunge.store import attempts, db
from expunge.store.queue_announcements import QUEUE
from expunge.worker.dispatcher import send_messages
from expunge.worker.task import run_attempt
from tests.support.cluster import until

FAKETIME = next(iter(map(str, Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))), None)


def child_of(worker: psutil.Process) -> psutil.Process:
    return worker.children()[0]


def test_job_runs_to_its_end_and_publishes(fleet, finished):
    fleet.loops(), fleet.worker()
    job_id = fleet.post()
    finished(job_id, 12)
    job = fleet.job(job_id)
    assert (job.attempt, job.verdict, job.error) == (1, {"passed": True}, None)
    assert job.progress["step"] == 12
    assert fleet.steps() == [(1, step) for step in range(12)]
    assert not list(Path(fleet.settings.artifacts_url.removeprefix("file://")).rglob("1-1/*"))[1:], (
        "checkpoints are gone"
    )


def test_f1_a_killed_worker_is_replaced_from_the_last_checkpoint(fleet, finished):
    """F1: SIGKILL of the worker and its child at a step."""
    loops, first = fleet.loops(), fleet.worker()
    job_id = fleet.post(hold=8)
    fleet.until_step(job_id, 8)
    fleet.signal(first, signal.SIGKILL)
    fleet.go.touch()
    fleet.worker()
    finished(job_id, 12)
    assert fleet.job(job_id).attempt == 2
    assert fleet.steps() == [(1, s) for s in range(8)] + [(2, s) for s in range(6, 12)]
    assert "resumed" in [e.data.get("code") for e in fleet.events(job_id)]
    assert loops.is_running()


def test_f2_a_killed_pool_child_costs_an_attempt_and_the_worker_goes_on(fleet, finished):
    """F2: SIGKILL of the pool child, as the OOM killer does."""
    fleet.loops()
    worker = fleet.worker()
    job_id = fleet.post(hold=4)
    fleet.until_step(job_id, 4)
    child_of(worker).kill()
    fleet.fault("child killed", costs=1)
    fleet.go.touch()
    finished(job_id, 12)
    assert fleet.job(job_id).attempt == 2
    assert worker.is_running()


def test_f3_a_job_that_kills_its_worker_each_time_fails_and_the_queue_moves_on(fleet, finished):
    """F3: the child dies in every attempt."""
    fleet.loops(), fleet.worker()
    poison, good = fleet.post(crash=5, max_attempts=2), fleet.post()
    fleet.fault("child died in each attempt", costs=1)
    assert fleet.until_status(poison, "failed").error["code"] == "worker_lost"
    assert fleet.job(poison).attempt == 2
    finished(good, 12)


def test_f5_a_frozen_worker_that_wakes_up_can_write_nothing(fleet, finished):
    """F5: SIGSTOP for longer than the lease, a take-over, SIGCONT."""
    fleet.loops()
    zombie = fleet.worker()
    job_id = fleet.post(hold=5)
    fleet.until_step(job_id, 5)
    fleet.signal(zombie, signal.SIGSTOP)
    fleet.worker()
    until(lambda: fleet.job(job_id).attempt == 2 and fleet.job(job_id).progress["step"] == 5)
    fleet.signal(zombie, signal.SIGCONT)
    log = fleet.folder / "process-1.log"
    until(lambda: "lease_lost" in log.read_text())
    fleet.go.touch()
    finished(job_id, 12)
    assert [attempt for attempt, step in fleet.steps() if step > 5] == [2] * 6


def test_f15_each_of_fifty_jobs_is_claimed_once_by_eight_workers_at_a_barrier(fleet, finished):
    """F15: eight threads that try to run every job, in the same order."""
    ids, barrier = [fleet.post(steps=1) for _ in range(50)], threading.Barrier(8)
    # No thread may lose its lease because the others had the processor
    changes = {"runner": "tests.support.step_runner:run", "lease_seconds": 60}
    settings = fleet.settings.model_copy(update=changes)
    fleet.fault("fifty jobs raced for")

    def worker() -> list[uuid.UUID]:
        barrier.wait()
        return [job.id for job_id in ids if (job := run_attempt(settings, job_id)) is not None]

    with ThreadPoolExecutor(8) as pool:
        won = Counter(job_id for mine in [pool.submit(worker) for _ in range(8)] for job_id in mine.result())
    assert won == dict.fromkeys(ids, 1)
    for job_id in ids:
        finished(job_id, 1)
    assert fleet.steps() == [(1, 0)] * 50


def test_f14_twenty_messages_for_one_job_make_one_run(fleet, finished):
    """F14: duplicate messages."""
    job_id = fleet.post()
    send_messages(fleet.settings.redis_url.get_secret_value(), [str(job_id)] * 20)
    fleet.worker(), fleet.worker()
    finished(job_id, 12)
    client = redis.Redis.from_url(fleet.settings.redis_url.get_secret_value())
    until(lambda: client.llen(QUEUE) == 0 and client.hlen("unacked") == 0)
    client.close()
    assert fleet.steps() == [(1, step) for step in range(12)]


def test_f8_queued_jobs_are_run_though_redis_forgot_them(fleet, finished):
    """F8: FLUSHALL, jobs queued."""
    job_id = fleet.post()
    broker = fleet.settings.redis_url.get_secret_value()
    send_messages(broker, [str(job_id)])
    with redis.Redis.from_url(broker) as client:
        client.flushall()
    fleet.loops(), fleet.worker()
    finished(job_id, 12)


def test_f8_a_running_job_does_not_notice_an_emptied_redis(fleet, finished):
    """F8: FLUSHALL in the middle of a run."""
    fleet.loops(), fleet.worker()
    job_id, later = fleet.post(hold=5), None
    fleet.until_step(job_id, 5)
    later = fleet.post()
    with redis.Redis.from_url(fleet.settings.redis_url.get_secret_value()) as client:
        client.flushall()
    fleet.go.touch()
    finished(job_id, 12)
    finished(later, 12)
    assert fleet.job(job_id).attempt == 1


def test_f4_sigterm_hands_the_job_over_without_charging_the_attempt(fleet, finished):
    """F4: SIGTERM, no checkpoint within the grace."""
    fleet.loops()
    first = fleet.worker()
    job_id = fleet.post(hold=8)
    fleet.until_step(job_id, 8)
    first.send_signal(signal.SIGTERM)
    assert first.wait(30) == 0
    until(lambda: "requeued" in [e.type for e in fleet.events(job_id)])
    assert fleet.job(job_id).attempt == 0
    fleet.go.touch()
    fleet.worker()
    finished(job_id, 12)
    assert fleet.job(job_id).attempt == 1


def test_f4_sigterm_waits_for_the_next_checkpoint(fleet, finished):
    """F4: SIGTERM, a checkpoint within the grace."""
    fleet.loops()
    first = fleet.worker(EXPUNGE_SOFT_SHUTDOWN_SECONDS="40")
    job_id = fleet.post(hold=8)
    fleet.until_step(job_id, 8)
    first.send_signal(signal.SIGTERM)
    fleet.go.touch()
    first.wait(60)
    fleet.worker()
    finished(job_id, 12)
    assert sorted(step for _, step in fleet.steps()) == list(range(12)), "no step was run twice"
    assert fleet.job(job_id).attempt == 1


def test_f1_a_pool_child_ends_with_its_worker_and_the_job_is_taken_over(fleet, finished):
    """F1: SIGKILL of the worker's parent process alone."""
    fleet.loops()
    worker = fleet.worker()
    job_id = fleet.post(hold=4)
    fleet.until_step(job_id, 4)
    child = child_of(worker)
    worker.kill()
    fleet.fault("worker's parent killed", costs=1)
    until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
    fleet.go.touch()
    fleet.worker()
    finished(job_id, 12)
    assert fleet.job(job_id).attempt == 2


def test_f16_a_running_job_is_cancelled_at_its_next_report(fleet):
    """F16: cancel while running."""
    fleet.loops(), fleet.worker()
    job_id = fleet.post(hold=4)
    fleet.until_step(job_id, 4)
    assert fleet.cancel(job_id).status == "cancelling"
    assert fleet.until_status(job_id, "cancelled").attempt == 1
    after = fleet.post()
    fleet.until_status(after, "succeeded")


def test_f16_a_run_that_ignores_its_cancellation_is_killed(fleet):
    """F16: cancel a run that does not listen."""
    fleet.loops()
    worker = fleet.worker()
    job_id = fleet.post(hold=4, hang=True)
    fleet.until_step(job_id, 4)
    child = child_of(worker)
    fleet.cancel(job_id)
    fleet.until_status(job_id, "cancelled")
    until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
    fleet.until_status(fleet.post(), "succeeded")


def test_f18_a_hung_run_is_noticed_and_goes_on_elsewhere(fleet, finished):
    """F18: a step that never ends."""
    fleet.loops(), fleet.worker(EXPUNGE_STALL_SECONDS="1.5")
    job_id = fleet.post(hold=4, hang=True)
    fleet.fault("hung", costs=1)
    until(lambda: "stalled" in [e.data.get("code") for e in fleet.events(job_id)])
    fleet.go.touch()
    finished(job_id, 12)
    assert fleet.job(job_id).attempt == 2


@pytest.mark.parametrize("hang", [False, True])
def test_f17_a_run_past_its_deadline_fails_and_its_worker_is_free(fleet, hang):
    """F17: the run's deadline passes, and the run listens or does not."""
    fleet.loops(), fleet.worker()
    fleet.fault("deadline passed")
    error = fleet.until_status(fleet.post(hold=4, run_timeout_s=2, hang=hang), "failed").error
    assert (error["code"], error["retryable"], error["attempt"]) == ("deadline_exceeded", True, 1)
    fleet.until_status(fleet.post(), "succeeded")


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    first, *rest = path.read_bytes()
    path.write_bytes(bytes([first ^ 1, *rest]))


@pytest.mark.parametrize(("damage", "count", "start"), [(truncate, 1, 3), (flip, 1, 3), (flip, 2, 0)])
def test_f22_a_damaged_checkpoint_gives_way_to_the_one_before_and_the_last_of_them_to_a_new_start(
    fleet, finished, damage, count, start
):
    """F22: the newest checkpoints are truncated, or have a flipped bit."""
    fleet.loops()
    first = fleet.worker()
    job_id = fleet.post(hold=8)
    fleet.until_step(job_id, 8)
    fleet.signal(first, signal.SIGKILL)
    with db.transaction(fleet.url) as session:
        rows = attempts.list_checkpoints(session, job_id)
    assert [row.step for row in rows] == [6, 3]
    for row in rows[:count]:
        fleet.fault("checkpoint damaged")
        damage(Path(fleet.settings.artifacts_url.removeprefix("file://")) / row.files["state"]["key"])
    fleet.go.touch()
    fleet.worker()
    finished(job_id, 12)
    assert [step for attempt, step in fleet.steps() if attempt == 2] == list(range(start, 12))
    assert [e.data.get("code") for e in fleet.events(job_id)].count("checkpoint_corrupt") == count


@pytest.mark.parametrize(
    ("spec", "code", "attempt"), [({"raises": 2}, "loss_not_finite", 1), ({"breaks": 2}, "internal_error", 2)]
)
def test_f23_python_errors_end_the_job_and_keep_their_inside_to_the_log(fleet, spec, code, attempt):
    """F23: a job's own error, and an unforeseen one, tried once more: failed with a code, nothing of its
    inside told.
    """
    fleet.loops(), fleet.worker()
    job_id = fleet.post(**spec)
    fleet.fault(code, costs=attempt - 1)
    error = fleet.until_status(job_id, "failed").error
    assert (error["code"], error["attempt"]) == (code, attempt)
    assert "secret detail" not in str(error)
    if code == "internal_error":
        assert "secret detail" in (fleet.folder / "process-1.log").read_text()


def test_stored_messages_hold_the_job_id_and_nothing_of_the_job(fleet):
    job_id = fleet.post(secret="a living artist")
    send_messages(fleet.settings.redis_url.get_secret_value(), [str(job_id)])
    with redis.Redis.from_url(fleet.settings.redis_url.get_secret_value()) as client:
        (message,) = client.lrange(QUEUE, 0, -1)
    arguments, named, _ = json.loads(base64.b64decode(json.loads(message)["body"]))
    assert (arguments, named) == ([str(job_id)], {})
    assert b"artist" not in message


@pytest.mark.skipif(FAKETIME is None, reason="needs libfaketime (apt-get install libfaketime)")
def test_f28_a_worker_whose_clock_is_wrong_changes_nothing(fleet, finished):
    """F28: a worker ten minutes ahead, another ten minutes behind: every time in the queue is the
    database's.
    """
    fleet.loops()
    ahead = fleet.worker(LD_PRELOAD=FAKETIME, FAKETIME="+600s", FAKETIME_DONT_FAKE_MONOTONIC="1")
    first = fleet.post(hold=5)
    fleet.until_step(first, 5)
    fleet.signal(ahead, signal.SIGKILL)
    fleet.go.touch()
    fleet.worker(LD_PRELOAD=FAKETIME, FAKETIME="-600s", FAKETIME_DONT_FAKE_MONOTONIC="1")
    finished(first, 12)
    assert fleet.job(first).attempt == 2
    job = fleet.job(first)
    assert job.created_at <= job.started_at <= job.finished_at
    assert job.finished_at - job.created_at < timedelta(minutes=5)
