"""Faults between the client and the job: brokers and databases that die, APIs that are killed between two lines, races of clients."""

import json
import signal
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil
import pytest
from fleets import until
from stage import JOB, Stage, behind, through

from store import db, jobs
from store.models import ACTIVE


def clean(stage: Stage, kills: int = 0) -> None:
    ledger = stage.ledger(kills)
    assert not ledger.wrong, ledger
    assert ledger.jobs_lost == ledger.published_twice == ledger.bytes_wrong == 0


@pytest.mark.parametrize("stage", ["memory", "file"], indirect=True)
def test_f6_queued_jobs_run_though_redis_was_killed(stage: Stage):
    """F6: Redis SIGKILL and restart, with and without its append-only file, jobs queued."""
    _, url = stage.api()
    for _ in range(5):
        assert stage.post(url).status_code == 202
    stage.faults.append("redis killed")
    stage.kill("redis")
    stage.open("redis")
    stage.loops(), stage.worker()
    clean(stage)


def test_f7_jobs_are_accepted_while_redis_is_down_and_run_when_it_returns(stage: Stage):
    """F7: Redis away during a load of POSTs."""
    _, url = stage.api()
    stage.loops(), stage.worker()
    stage.faults.append("redis away")
    stage.kill("redis")
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: stage.post(url).status_code, range(24)))
    assert answers == [202] * 24
    stage.open("redis")
    clean(stage)
    assert len(stage.accepted) == 24


def test_f9_a_database_restart_costs_nothing_but_a_retry(stage: Stage):
    """F9: PostgreSQL restarted at once, under load: 503 with Retry-After, the same key gives one job, the running job goes on."""
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
def test_f9_a_post_in_flight_when_the_database_dies_is_a_503_and_its_repetition_one_job(stage: Stage, lost: str):
    """F9: PostgreSQL dies before the job's COMMIT reaches it, or when it is done but nobody knows."""
    wire = behind(stage.direct)
    _, url = stage.api(DATABASE_URL=through(stage.direct, wire))
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
    assert (answer.status_code, answer.json()["code"], int(answer.headers["retry-after"]) > 0) == (503, "unavailable", True)
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
    """F9: two APIs, four clients that post without a pause and repeat what is refused, each with a key of its own."""
    urls = [stage.api()[1], stage.api()[1]]
    stage.loops(), stage.worker()
    over, refused, keys = threading.Event(), list[httpx.Response](), list[str]()

    def client(n: int) -> None:
        while not over.is_set():
            keys.append(key := uuid.uuid4().hex)
            while (answer := stage.post(urls[n % 2], key, timeout=60)).status_code != 202:
                refused.append(answer)
                time.sleep(0.1)
            time.sleep(0.2)

    with ThreadPoolExecutor(4) as pool:
        clients = [pool.submit(client, n) for n in range(4)]
        until(lambda: len(stage.accepted) >= 8)
        stage.faults.append("postgres restarted under load")
        stage.kill("postgres")
        until(lambda: len(refused) >= 4)
        stage.open("postgres")
        before = len(stage.accepted)
        until(lambda: len(stage.accepted) >= before + 8)
        over.set()
        for each in clients:
            each.result()
    assert {(answer.status_code, answer.json()["code"]) for answer in refused} == {(503, "unavailable")}
    assert all(int(answer.headers["retry-after"]) > 0 for answer in refused)
    assert len(stage.accepted) == len(set(keys))
    clean(stage, kills=1)


def test_f9_a_running_job_outlives_cut_wires_to_the_database(stage: Stage):
    """F9: the database out of reach while a run checkpoints at every step, for less than its lease: it waits, and not even an attempt is lost."""
    _, url = stage.api()
    stage.loops(), stage.worker()
    job_id = uuid.UUID(stage.post(url, method={"name": "esd", "steps": 60, "checkpoint_every": 1}, labels={"pause_ms": "20"}).json()["id"])
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
    """F9: the database away for longer than a lease costs an attempt, and no more steps than since the last checkpoint."""
    _, url = stage.api()
    stage.loops()
    worker = stage.worker()
    job_id = uuid.UUID(stage.post(url, method={"name": "esd", "steps": 60, "checkpoint_every": 1}, labels={"pause_ms": "20"}).json()["id"])
    stage.until_step(job_id, 5)
    stage.faults.append("postgres cut")
    stage.proxies["postgres"].cut()
    log = stage.folder / f"process-{stage.processes.index(worker)}.log"
    until(lambda: "database_away_for_long" in log.read_text())
    stage.proxies["postgres"].mend()
    clean(stage, kills=1)
    assert stage.job(job_id).status == "succeeded"


@pytest.mark.parametrize("table", ["checkpoints", "artifacts"])
def test_f9_a_commit_of_a_worker_s_whose_answer_is_lost_is_done_once(stage: Stage, table: str):
    """F9: the wire breaks when a checkpoint, or the publication, is committed but the worker does not know."""
    wire = behind(stage.direct)
    _, url = stage.api()
    stage.loops(), stage.worker(DATABASE_URL=through(stage.direct, wire))
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


def test_f4_a_deploy_replaces_every_process_under_a_running_job_and_charges_nothing(stage: Stage):
    """F4: SIGTERM for API, loops and worker once their successors are up; the job is handed over with its checkpoint, no request is refused."""
    old, url = stage.api()
    processes = [old, stage.loops(), stage.worker(SOFT_SHUTDOWN_SECONDS="40")]
    running = uuid.UUID(stage.post(url, labels={"hold": "8"}).json()["id"])
    stage.until_step(running, 8)
    _, url = stage.api()
    stage.loops(), stage.worker()
    stage.faults.append("deploy")
    for process in processes:
        process.send_signal(signal.SIGTERM)
    assert stage.post(url).status_code == 202
    stage.go.touch()
    for process in processes:
        process.wait(60)
    assert stage.until_status(running, "succeeded", "failed").attempt == 1
    assert "requeued" in [event.type for event in stage.events(running)]
    clean(stage)


def test_f10_an_api_killed_before_its_answer_leaves_one_job(stage: Stage):
    """F10: API SIGKILL between the commit and the response; the client repeats its request at another API."""
    first, url = stage.api()
    _, second = stage.api()
    proxy = behind(url.replace("http", "postgresql"))

    def die(_: bytes) -> bool:
        first.kill()
        return False

    proxy.on_reply = die
    key = uuid.uuid4().hex
    with pytest.raises(httpx.TransportError):
        stage.post(f"http://127.0.0.1:{proxy.port}", key)
    stage.faults.append("api killed before its answer")
    until(lambda: not first.is_running() or first.status() == psutil.STATUS_ZOMBIE)
    with db.transaction(stage.url) as session:
        (committed,) = jobs.list_jobs(session, stage.tenant_id, limit=10)
    again = stage.post(second, key)
    assert (again.status_code, again.json()["id"]) == (202, str(committed.id))
    stage.loops(), stage.worker()
    clean(stage)
    proxy.close()


def test_f11_an_api_killed_before_its_bell_leaves_a_job_that_runs(stage: Stage):
    """F11: API SIGKILL between the commit and the message to Redis."""
    wire = behind(stage.settings.redis_url.get_secret_value())
    first, url = stage.api(REDIS_URL=through(stage.settings.redis_url.get_secret_value(), wire))

    def die(_: bytes) -> bool:
        first.kill()
        return False

    wire.on_request = die
    with pytest.raises(httpx.TransportError):
        stage.post(url)
    stage.faults.append("api killed before its bell")
    with db.transaction(stage.url) as session:
        (committed,) = jobs.list_jobs(session, stage.tenant_id, limit=10)
    stage.accepted.append(committed.id)
    stage.loops(), stage.worker()
    clean(stage)
    assert stage.job(committed.id).status == "succeeded"
    wire.close()


def test_f12_fifty_requests_with_one_key_make_one_job(stage: Stage):
    """F12: fifty POSTs at once with one key, over two APIs."""
    urls = [stage.api()[1], stage.api()[1]]
    barrier, key = threading.Barrier(50), uuid.uuid4().hex

    def ask(i: int) -> httpx.Response:
        barrier.wait()
        return stage.post(urls[i % 2], key, timeout=60)

    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(ask, range(50)))
    assert {a.status_code for a in answers} <= {202, 409}
    assert len({a.json()["id"] for a in answers if a.status_code == 202}) == 1
    assert {a.json()["code"] for a in answers if a.status_code == 409} <= {"idempotency_in_flight"}
    stage.loops(), stage.worker()
    clean(stage)
    assert len(stage.accepted) == 1


def test_f13_a_key_with_another_body_is_refused(stage: Stage):
    """F13: the same key, another body."""
    _, url = stage.api()
    key = uuid.uuid4().hex
    assert stage.post(url, key).status_code == 202
    other = stage.post(url, key, concepts=["dog"])
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_mismatch")
    with db.transaction(stage.url) as session:
        assert len(jobs.list_jobs(session, stage.tenant_id, limit=10)) == 1


def test_f16_a_job_is_cancelled_in_every_state(stage: Stage):
    """F16: queued, running, about to publish, ended, and twice."""
    _, url = stage.api()
    client = httpx.Client(base_url=url, headers=stage.bearer, timeout=10)

    def cancel(job_id: str) -> httpx.Response:
        return client.post(f"/jobs/{job_id}/cancel")

    queued = stage.post(url).json()["id"]
    assert cancel(queued).json()["status"] == "cancelled"
    assert (cancel(queued).status_code, cancel(queued).json()["status"]) == (200, "cancelled")
    stage.loops(), stage.worker()
    running = stage.post(url, labels={"hold": "4"}).json()["id"]
    stage.until_step(uuid.UUID(running), 4)
    assert [cancel(running).json()["status"] for _ in range(2)] == ["cancelling"] * 2
    stage.until_status(uuid.UUID(running), "cancelled")
    publishing = stage.post(url, labels={"hold": "12", "hang": "1"}).json()["id"]
    stage.until_step(uuid.UUID(publishing), 12)
    cancel(publishing)
    stage.go.touch()
    assert stage.until_status(uuid.UUID(publishing), "cancelled", "succeeded").status == "cancelled"
    assert client.get(f"/jobs/{publishing}/artifacts").json()["items"] == []
    done = stage.post(url).json()["id"]
    stage.until_status(uuid.UUID(done), "succeeded")
    late = cancel(done)
    assert (late.status_code, client.get(f"/jobs/{done}").json()["status"]) in {(409, "succeeded"), (200, "succeeded")}
    clean(stage)
    client.close()


def test_f17_a_job_that_never_started_expires(stage: Stage):
    """F17: the queue deadline passes while no worker runs."""
    _, url = stage.api()
    stage.loops()
    job_id = uuid.UUID(stage.post(url, queue_timeout_s=1).json()["id"])
    assert stage.until_status(job_id, "expired").attempt == 0
    stage.worker()  # finds nothing to do
    clean(stage)


def test_f26_an_event_stream_that_breaks_goes_on_without_gap_or_duplicate(stage: Stage):
    """F26: the connection is cut again and again; the client comes back with Last-Event-ID."""
    _, url = stage.api()
    stage.loops(), stage.worker()
    proxy = behind(url.replace("http", "postgresql"))
    job_id = stage.post(url, method={"name": "esd", "steps": 40, "checkpoint_every": 10}, labels={"pause_ms": "40"}).json()["id"]
    seen, cuts = list[int](), 0
    while not seen or stage.job(uuid.UUID(job_id)).status in ACTIVE or stage.job(uuid.UUID(job_id)).version > seen[-1]:
        headers = stage.bearer | {"Accept": "text/event-stream"} | ({"Last-Event-ID": str(seen[-1])} if seen else {})
        try:
            with httpx.stream("GET", f"http://127.0.0.1:{proxy.port}/jobs/{job_id}/events", headers=headers, timeout=10) as answer:
                taken = 0
                for line in answer.iter_lines():
                    if line.startswith("id:"):
                        seen.append(int(line.removeprefix("id:")))
                        taken += 1
                    if taken == 7:
                        break
        except httpx.TransportError:
            pass
        proxy.cut()
        proxy.mend()
        cuts += 1
        stage.faults.append("event stream cut")
    assert seen == list(range(1, stage.job(uuid.UUID(job_id)).version + 1))
    assert cuts > 3
    clean(stage)
    proxy.close()


def test_f29_one_of_two_leaders_acts_and_the_other_takes_over(stage: Stage):
    """F29: two dispatchers and reapers at once; the leader is killed."""
    _, url = stage.api()
    first, second = stage.loops(), stage.loops()
    stage.worker()
    ids = [uuid.UUID(stage.post(url).json()["id"]) for _ in range(4)]
    for job_id in ids:
        stage.until_status(job_id, "succeeded")
    logs = [stage.folder / f"process-{stage.processes.index(p)}.log" for p in (first, second)]

    def leads(i: int) -> set[str]:
        lines = [json.loads(line) for line in logs[i].read_text().splitlines() if "loop_leads" in line]
        return {line["loop"] for line in lines}

    until(lambda: leads(0) | leads(1) >= {"dispatcher", "reaper"})
    assert leads(0) & leads(1) == set(), "each loop is led by one of them"
    leader = 0 if "dispatcher" in leads(0) else 1
    stage.faults.append("leader killed")
    (first, second)[leader].kill()
    until(lambda: leads(1 - leader) >= {"dispatcher", "reaper"})
    stage.until_status(uuid.UUID(stage.post(url).json()["id"]), "succeeded")
    clean(stage)


def test_f31_everything_killed_at_once_goes_on_by_itself(stage: Stage):
    """F31: kill -9 of every process, servers included, and a plain start."""
    _, url = stage.api()
    stage.loops(), stage.worker()
    running = uuid.UUID(stage.post(url, labels={"hold": "8"}).json()["id"])
    for _ in range(3):
        stage.post(url)
    stage.until_step(running, 8)
    for process in stage.processes:
        stage.signal(process, signal.SIGKILL)
    for name in ("redis", "postgres"):
        stage.kill(name)
    for name in ("postgres", "redis"):
        stage.open(name)
    stage.go.touch()
    _, url = stage.api()
    stage.loops(), stage.worker()
    clean(stage, kills=1)
    assert httpx.get(f"{url}/jobs/{running}", headers=stage.bearer).json()["attempt"] == 2
    assert JOB["method"]["steps"] == stage.job(running).progress["step"]
