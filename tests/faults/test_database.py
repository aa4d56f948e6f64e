"""Faults of the database (F9): restarted, out of reach, or gone between a COMMIT and its answer."""

import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from expunge.store import db, jobs
from tests.support.cluster import until
from tests.support.service_role import as_service
from tests.support.whole_service import Stage, behind, clean, through


def test_f9_a_database_restart_costs_nothing_but_a_retry(stage: Stage):
    """F9: PostgreSQL restarted at once, under load: 503 with Retry-After, the same key gives one job, the
    running job goes on.
    """
    _, url = stage.api()
    stage.loops(), stage.worker()
    running = uuid.UUID(stage.post(url, labels={"hold": "4"}).json()["id"])
    stage.until_step(running, 4)
    stage.faults.append("postgres restarted")
    stage.kill("postgres")
    keys = [uuid.uuid4().hex for _ in range(6)]
    refused = [stage.post(url, key) for key in keys]
    assert {a.status_code for a in refused} == {503}
    assert all(int(a.headers["retry-after"]) > 0 for a in refused)
    assert {a.json()["code"] for a in refused} == {"unavailable"}
    stage.open("postgres")
    for key in keys:
        until(lambda key=key: stage.post(url, key).status_code == 202)
        assert stage.post(url, key).json()["id"] in {str(j) for j in stage.accepted}
    assert len(stage.accepted) == 7
    stage.go.touch()
    clean(stage, kills=1)
    assert stage.job(running).status == "succeeded"


@pytest.mark.parametrize("lost", ["commit", "its answer"])
def test_f9_a_post_in_flight_when_the_database_dies_is_a_503_and_its_repetition_one_job(
    stage: Stage, lost: str
):
    """F9: PostgreSQL dies before the job's COMMIT reaches it, or when it is done but nobody knows."""
    wire = behind(stage.direct)
    _, url = stage.api(EXPUNGE_DATABASE_URL=through(as_service(stage.direct), wire))
    inserted, committed = threading.Event(), threading.Event()

    def ask(data: bytes) -> bool:
        if b"INSERT INTO jobs" in data:
            inserted.set()
        if inserted.is_set() and b"COMMIT" in data and not committed.is_set():
            committed.set()
            return lost != "commit" or die()
        return True

    def die() -> bool:
        stage.faults.append("postgres killed under a POST")
        stage.kill("postgres")
        return False

    wire.on_request, wire.on_reply = ask, lambda _: not committed.is_set() or die()
    key = uuid.uuid4().hex
    answer = stage.post(url, key, timeout=30)
    assert committed.is_set()
    assert (answer.status_code, answer.json()["code"], int(answer.headers["retry-after"]) > 0) == (
        503,
        "unavailable",
        True,
    )
    wire.on_request = wire.on_reply = lambda _: True
    stage.open("postgres")
    with db.transaction(stage.direct) as session:
        known = [job.id for job in jobs.list_jobs(session, stage.tenant_id, limit=10)]
    assert len(known) == (lost == "its answer")
    until(lambda: stage.post(url, key).status_code == 202)
    assert len(stage.accepted) == 1
    assert not known or known == stage.accepted
    stage.loops(), stage.worker()
    clean(stage)
    wire.close()


def test_f9_a_database_restart_under_load_refuses_for_a_while_and_loses_nothing(stage: Stage):
    """F9: two APIs, four clients that post again and again and repeat what is refused, each with a key of its
    own.
    """
    urls = [stage.api()[1], stage.api()[1]]
    stage.loops(), stage.worker()
    over, refused, keys = threading.Event(), list[httpx.Response](), list[str]()

    def client(n: int) -> None:
        while not over.is_set():
            keys.append(key := uuid.uuid4().hex)
            while (answer := stage.post(urls[n % 2], key, timeout=60)).status_code != 202:
                refused.append(answer)
                time.sleep(0.1)
            time.sleep(0.5)

    with ThreadPoolExecutor(4) as pool:
        clients = [pool.submit(client, n) for n in range(4)]
        until(lambda: len(stage.accepted) >= 4)
        stage.faults.append("postgres restarted under load")
        stage.kill("postgres")
        until(lambda: len(refused) >= 4)
        stage.open("postgres")
        before = len(stage.accepted)
        until(lambda: len(stage.accepted) >= before + 4)
        over.set()
        for each in clients:
            each.result()
    assert {(answer.status_code, answer.json()["code"]) for answer in refused} == {(503, "unavailable")}
    assert all(int(answer.headers["retry-after"]) > 0 for answer in refused)
    assert len(stage.accepted) == len(set(keys))
    clean(stage, kills=1)


def test_f9_a_running_job_outlives_cut_wires_to_the_database(stage: Stage):
    """F9: the database out of reach while a run checkpoints at every step, for less than its lease: it waits,
    and not even an attempt is lost.
    """
    _, url = stage.api()
    stage.loops(), stage.worker()
    job_id = uuid.UUID(
        stage.post(
            url, method={"name": "esd", "steps": 60, "checkpoint_every": 1}, labels={"pause_ms": "20"}
        ).json()["id"]
    )
    for step in (5, 25, 45):
        stage.until_step(job_id, step)
        stage.faults.append("postgres cut")
        stage.proxies["postgres"].cut()
        time.sleep(1)
        stage.proxies["postgres"].mend()
    clean(stage)
    job = stage.job(job_id)
    assert (job.status, job.attempt) == ("succeeded", 1)


def test_f9_a_running_job_waits_for_the_database_as_long_as_its_lease_and_is_then_handed_over(stage: Stage):
    """F9: the database away for longer than a lease costs an attempt, and no more steps than since the last
    checkpoint.
    """
    _, url = stage.api()
    stage.loops()
    worker = stage.worker()
    job_id = uuid.UUID(
        stage.post(
            url, method={"name": "esd", "steps": 60, "checkpoint_every": 1}, labels={"pause_ms": "20"}
        ).json()["id"]
    )
    stage.until_step(job_id, 5)
    stage.faults.append("postgres cut")
    stage.proxies["postgres"].cut()
    log = stage.folder / f"process-{stage.processes.index(worker)}.log"
    until(lambda: "database_unreachable_too_long" in log.read_text())
    stage.proxies["postgres"].mend()
    clean(stage, kills=1)
    assert stage.job(job_id).status == "succeeded"


@pytest.mark.parametrize("table", ["checkpoints", "artifacts"])
def test_f9_a_commit_of_a_worker_s_whose_answer_is_lost_is_done_once(stage: Stage, table: str):
    """F9: the wire breaks when a checkpoint, or the publication, is committed but the worker does not
    know.
    """
    wire = behind(stage.direct)
    _, url = stage.api()
    stage.loops(), stage.worker(EXPUNGE_DATABASE_URL=through(as_service(stage.direct), wire))
    inserted, lost = threading.Event(), threading.Event()

    def ask(data: bytes) -> bool:
        if f"INSERT INTO {table}".encode() in data:
            inserted.set()
        if inserted.is_set() and b"COMMIT" in data:
            lost.set()
        return True

    def answer(_: bytes) -> bool:
        if not lost.is_set():
            return True
        wire.on_request = wire.on_reply = lambda _: True
        return False

    wire.on_request, wire.on_reply = ask, answer
    stage.faults.append(f"answer lost to a commit of {table}")
    job_id = uuid.UUID(stage.post(url).json()["id"])
    job = stage.until_status(job_id, "succeeded", "failed")
    assert lost.is_set()
    assert (job.status, job.attempt) == ("succeeded", 1)
    steps = [event.data["step"] for event in stage.events(job_id) if event.type == "checkpoint"]
    assert len(steps) == len(set(steps)) > 0
    clean(stage)
    wire.close()
