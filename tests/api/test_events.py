import json
import threading
from collections.abc import Iterator

import httpx
import psycopg
import pytest

from expunge.api.routes import events
from expunge.store import db
from tests.support.service import Tenant, make_settings, problem, serve

STREAM = {"Accept": "text/event-stream"}


def stream(client: httpx.Client, job_id: str, **headers: str) -> Iterator[dict]:
    """Events off the wire: the data of each message, its id and name checked against it."""
    with client.stream("GET", f"/jobs/{job_id}/events", headers={**STREAM, **headers}) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        fields: dict[str, str] = {}
        for line in answer.iter_lines():
            if not line and "data" in fields:
                event = json.loads(fields["data"])
                assert fields["id"] == str(event["seq"])
                assert fields["event"] == event["type"]
                yield event
            if not line:
                fields = {}
            else:
                name, _, value = line.partition(":")
                fields[name] = value.strip()


def test_pages_count_without_gap_from_one(tenant: Tenant, tmp_path):
    client, job = tenant.http(), tenant.erase()
    fence = tenant.claim(job["id"])
    for step in range(5):
        tenant.progress(job["id"], fence, step)
    first = client.get(f"/jobs/{job['id']}/events", params={"limit": 4}).json()
    rest = client.get(f"/jobs/{job['id']}/events", params={"after": first["next_after"]}).json()
    assert [e["seq"] for e in first["items"] + rest["items"]] == list(range(1, 8))
    assert not first["finished"]
    assert not rest["finished"]
    assert rest["items"][-1]["data"]["progress"]["step"] == 4
    tenant.publish(job["id"], fence, {}, tmp_path)
    last = client.get(f"/jobs/{job['id']}/events", params={"after": 7}).json()
    assert [e["type"] for e in last["items"]] == ["succeeded"]
    assert last["finished"]
    assert client.get(f"/jobs/{job['id']}/events", params={"after": 8}).json() == {
        "items": [],
        "next_after": 8,
        "finished": True,
    }


def test_a_page_that_stops_short_of_the_end_is_not_finished(tenant: Tenant):
    client, job = tenant.http(), tenant.erase()
    client.post(f"/jobs/{job['id']}/cancel")
    assert not client.get(f"/jobs/{job['id']}/events", params={"limit": 1}).json()["finished"]
    assert client.get(f"/jobs/{job['id']}/events", params={"limit": 2}).json()["finished"]


def test_a_stream_follows_a_job_live_to_its_end(tenant: Tenant, tmp_path):
    client, job = tenant.http(), tenant.erase()
    seen, fence = [], 0
    for event in stream(client, job["id"]):
        seen.append(event)
        match event["type"]:
            case "queued":
                fence = tenant.claim(job["id"])
            case "started":
                tenant.progress(job["id"], fence, 1)
            case "progress":
                tenant.publish(job["id"], fence, {}, tmp_path)
    assert [e["type"] for e in seen] == ["queued", "started", "progress", "succeeded"]
    assert [e["seq"] for e in seen] == [1, 2, 3, 4]


def test_a_stream_resumes_after_the_last_event_without_gap_or_repeat(tenant: Tenant, tmp_path):
    client, job = tenant.http(), tenant.erase()
    fence = tenant.claim(job["id"])
    for step in range(20):
        tenant.progress(job["id"], fence, step)
    seen: list[int] = []
    while not seen or seen[-1] < 22:
        for n, event in enumerate(
            stream(client, job["id"], **({"Last-Event-ID": str(seen[-1])} if seen else {}))
        ):
            seen.append(event["seq"])
            if n == 6 or seen[-1] == 22:
                break
    tenant.publish(job["id"], fence, {}, tmp_path)
    seen += [event["seq"] for event in stream(client, job["id"], **{"Last-Event-ID": str(seen[-1])})]
    assert seen == list(range(1, 24))


def test_a_finished_jobs_stream_ends_by_itself(tenant: Tenant):
    client, job = tenant.http(), tenant.erase()
    client.post(f"/jobs/{job['id']}/cancel")
    assert [e["type"] for e in stream(client, job["id"])] == ["queued", "cancelled"]
    for at_its_end in (
        {"headers": {**STREAM, "Last-Event-ID": "2"}},
        {"headers": STREAM, "params": {"after": 2}},
    ):
        answer = client.get(f"/jobs/{job['id']}/events", **at_its_end)
        assert (answer.status_code, answer.content) == (204, b""), "which stops an EventSource"


def test_a_stream_says_once_how_soon_to_come_back(tenant: Tenant):
    client, job = tenant.http(), tenant.erase()
    client.post(f"/jobs/{job['id']}/cancel")
    text = client.get(f"/jobs/{job['id']}/events", headers=STREAM).text
    assert text.count("retry:") == 1
    assert text.count("data:") == 2


def test_many_idle_streams_leave_the_database_free(tenant: Tenant):
    """More streams than the pool has connections; all are open while the job is still answered, then all see
    its end.
    """
    client, job = tenant.http(), tenant.erase()
    opened, ends = threading.Barrier(31), []

    def follow() -> None:
        with httpx.Client(base_url=tenant.url, headers=dict(client.headers), timeout=60) as own:
            for event in stream(own, job["id"]):
                if event["type"] == "queued":
                    opened.wait()
            ends.append(event["type"])

    threads = [threading.Thread(target=follow) for _ in range(30)]
    for thread in threads:
        thread.start()
    opened.wait()
    assert client.post(f"/jobs/{job['id']}/cancel").json()["status"] == "cancelled"
    for thread in threads:
        thread.join()
    assert ends == ["cancelled"] * 30


def test_a_stream_goes_on_when_the_listener_is_cut_off(postgres_url: str, redis_url: str, tmp_path):
    settings = make_settings(postgres_url, redis_url, tmp_path)
    with serve(settings) as (url, _):
        tenant = Tenant(url, settings)
        job, types = tenant.erase(), []
        for event in stream(tenant.http(), job["id"]):
            types.append(event["type"])
            if event["type"] == "queued":
                with psycopg.connect(db.psycopg_url(postgres_url), autocommit=True) as connection:
                    connection.execute(
                        "select pg_terminate_backend(pid) from pg_stat_activity where application_name ="
                        " 'expunge-listener'"
                    )
                tenant.http().post(f"/jobs/{job['id']}/cancel")
        assert types == ["queued", "cancelled"]


def test_an_idle_stream_sends_heartbeats(tenant: Tenant, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(events, "HEARTBEAT", 0.05)
    with tenant.http().stream("GET", f"/jobs/{tenant.erase()['id']}/events", headers=STREAM) as answer:
        beats = (line for line in answer.iter_lines() if line.startswith(":"))
        assert [next(beats)[:6] for _ in range(3)] == [": ping"] * 3


@pytest.mark.parametrize("value", ["-1", "x", "1.5", "9" * 30])
def test_an_unusable_last_event_id_is_refused(tenant: Tenant, value: str):
    answer = tenant.http().get(
        f"/jobs/{tenant.erase()['id']}/events", headers={**STREAM, "Last-Event-ID": value}
    )
    problem(answer, 400, "bad_header")


def test_a_stream_of_no_job_is_a_problem_not_a_stream(tenant: Tenant, other: Tenant):
    problem(tenant.http().get(f"/jobs/{other.erase()['id']}/events", headers=STREAM), 404, "not_found")
    problem(
        tenant.http().get(f"/jobs/{tenant.erase()['id']}/events", headers={"Accept": "text/html"}),
        406,
        "not_acceptable",
    )
