"""Faults between the client and the job: brokers and databases that die, APIs that are killed between two
lines, races of clients.
"""

import json
import signal
import socket
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import httpx
import psutil
import pytest

from expunge.store import db, jobs
from expunge.store.statuses import JobStatus
from tests.support.cluster import alive, until
from tests.support.whole_service import JOB, Stage, behind, clean, through


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
        answers = list(pool.map(lambda _: stage.post(url).status_code, range(12)))
    assert answers == [202] * 12
    stage.open("redis")
    clean(stage)
    assert len(stage.accepted) == 12


def test_f4_a_deploy_replaces_every_process_under_a_running_job_and_charges_nothing(stage: Stage):
    """F4: SIGTERM for API, loops and worker once their successors are up; the job is handed over with its
    checkpoint, no request is refused.
    """
    old, url = stage.api()
    processes = [old, stage.loops(), stage.worker(EXPUNGE_SOFT_SHUTDOWN_SECONDS="40")]
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


def test_f4_an_api_that_is_told_to_stop_answers_what_it_has_begun_and_its_clients_go_on_at_the_next(
    stage: Stage,
):
    """F4: SIGTERM between the two halves of a POST's body, and POSTs that come afterwards to the same
    address.
    """
    old, url = stage.api()
    _, successor = stage.api()
    key = uuid.uuid4().hex
    body = json.dumps(JOB).encode()

    def halves() -> Iterator[bytes]:
        yield body[:20]
        assert alive(url), "its loop has turned since, so it has begun with this request"
        assert alive(url)
        old.send_signal(signal.SIGTERM)
        until(lambda: not listens(url))
        yield body[20:]

    headers = {
        **stage.bearer,
        "Idempotency-Key": key,
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
    }
    begun = httpx.post(f"{url}/jobs/erase", content=halves(), headers=headers, timeout=30)
    assert begun.status_code == 202
    stage.accepted.append(uuid.UUID(begun.json()["id"]))
    stage.faults.append("API told to stop in the middle of a POST")
    for _ in range(8):
        later = uuid.uuid4().hex
        with pytest.raises(httpx.ConnectError):
            stage.post(url, later)
        assert stage.post(successor, later).status_code == 202
    assert old.wait(30) == -signal.SIGTERM, "uvicorn ends in good order, then by the signal"
    assert stage.post(successor, key).json()["id"] == begun.json()["id"], (
        "a repetition finds the job that the dying API made"
    )
    stage.loops(), stage.worker()
    clean(stage)
    assert len(stage.accepted) == 9


def listens(url: str) -> bool:
    """Whether anybody takes connections there."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=1):
        return True
    return False


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


def test_f11_an_api_killed_before_its_wake_up_message_leaves_a_job_that_runs(stage: Stage):
    """F11: API SIGKILL between the commit and the message to Redis."""
    wire = behind(stage.settings.redis_url.get_secret_value())
    first, url = stage.api(EXPUNGE_REDIS_URL=through(stage.settings.redis_url.get_secret_value(), wire))

    def die(_: bytes) -> bool:
        first.kill()
        return False

    wire.on_request = die
    with pytest.raises(httpx.TransportError):
        stage.post(url)
    stage.faults.append("api killed before its wake-up message")
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
    assert (late.status_code, client.get(f"/jobs/{done}").json()["status"]) in {
        (409, "succeeded"),
        (200, "succeeded"),
    }
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
    job_id = stage.post(
        url, method={"name": "esd", "steps": 40, "checkpoint_every": 10}, labels={"pause_ms": "40"}
    ).json()["id"]
    seen, cuts = list[int](), 0
    while (
        not seen
        or stage.job(uuid.UUID(job_id)).status in JobStatus.active()
        or stage.job(uuid.UUID(job_id)).version > seen[-1]
    ):
        headers = (
            stage.bearer
            | {"Accept": "text/event-stream"}
            | ({"Last-Event-ID": str(seen[-1])} if seen else {})
        )
        try:
            with httpx.stream(
                "GET", f"http://127.0.0.1:{proxy.port}/jobs/{job_id}/events", headers=headers, timeout=10
            ) as answer:
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
        lines = [json.loads(line) for line in logs[i].read_text().splitlines() if "loop_leading" in line]
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
    """F31: SIGKILL of every process, Redis and all of PostgreSQL's included, and a plain start."""
    _, url = stage.api()
    stage.loops(), stage.worker()
    running = uuid.UUID(stage.post(url, labels={"hold": "8"}).json()["id"])
    for _ in range(3):
        stage.post(url)
    stage.until_step(running, 8)
    for process in stage.processes:
        stage.signal(process, signal.SIGKILL)
    for name in ("redis", "postgres"):
        stage.kill_9(name)
    for name in ("postgres", "redis"):
        stage.open(name)
    assert (
        "database system was not properly shut down; automatic recovery in progress"
        in (stage.data / "postgres.log").read_text()
    )
    stage.go.touch()
    _, url = stage.api()
    stage.loops(), stage.worker()
    clean(stage, kills=1)
    assert httpx.get(f"{url}/jobs/{running}", headers=stage.bearer).json()["attempt"] == 2
    assert JOB["method"]["steps"] == stage.job(running).progress["step"]
