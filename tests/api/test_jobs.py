import threading
import uuid
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from redis import Redis

from expunge.store import logs
from tests.support.service import Tenant, errors, make_settings, problem, serve

SPEC = {"concepts": ["church"], "method": "uce"}


def test_creating_an_erase_job_answers_202_with_its_address(tenant: Tenant):
    client = tenant.http()
    answer = client.post(
        "/jobs/erase",
        json={"model": "emoji", "concepts": ["church"], "method": "age", "labels": {"ticket": "7"}},
    )
    assert answer.status_code == 202
    job = answer.json()
    assert answer.headers["location"] == f"/jobs/{job['id']}"
    assert int(answer.headers["retry-after"]) > 0
    assert "no-store" in answer.headers["cache-control"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "access-control-allow-origin" not in answer.headers
    assert job["status"] == "queued"
    assert job["labels"] == {"ticket": "7"}
    assert job["spec"]["method"]["name"] == "age"
    assert job["spec"]["method"]["steps"] > 0
    assert client.get(answer.headers["location"]).json() == job


def test_a_job_shows_all_that_it_promises(tenant: Tenant):
    expected = (
        "id kind status spec attempt progress artifacts verdict error notes labels version retried_from"
        " policy latest_verdict created_at started_at finished_at"
    )
    assert set(tenant.erase()) == set(expected.split())


def test_a_dry_run_resolves_the_spec_and_stores_nothing(tenant: Tenant):
    answer = tenant.http().post(
        "/jobs/erase?dry_run=true", json={"concepts": ["church"], "method": {"name": "esd", "steps": 7}}
    )
    assert answer.status_code == 200
    assert answer.json()["dry_run"] is True
    assert answer.json()["spec"]["method"]["eta"] == 1.0
    assert answer.json()["spec"]["method"]["steps"] == 7
    assert tenant.count() == 0
    errors(tenant.http().post("/jobs/erase?dry_run=true", json={"concepts": [""]}))


def test_a_name_that_the_model_s_vocabulary_lacks_is_noted_with_the_nearest_and_stays_with_the_job(
    tenant: Tenant,
):
    client = tenant.http()
    spec = {
        "concepts": ["delivery truk", {"name": "church", "target": "castel"}],
        "preserve": ["dog", "catt"],
        "model": "emoji",
    }
    job = client.post("/jobs/erase", json=spec).json()
    fields = [note.split(":")[0] for note in job["notes"]]
    assert fields == ["concepts[0]", "concepts[1].target", "preserve[1]"]
    assert "did you mean 'delivery truck'?" in job["notes"][0]
    (style,) = tenant.erase(concepts=["in the style of twemogi"])["notes"]
    assert "did you mean 'in the style of twemoji'?" in style
    assert client.get(f"/jobs/{job['id']}").json()["notes"] == job["notes"]
    assert job["notes"] in [item["notes"] for item in client.get("/jobs").json()["items"]]
    assert client.post("/jobs/erase?dry_run=true", json=spec).json()["notes"] == job["notes"]
    client.post(f"/jobs/{job['id']}/cancel")
    assert client.post(f"/jobs/{job['id']}/retry").json()["notes"] == job["notes"]


@pytest.mark.parametrize(
    "concepts",
    [
        ["church"],
        ["Delivery  Truck"],
        ["noto"],
        ["in the style of noto"],
        [{"name": "my lorry", "synonyms": ["delivery truck"]}],
    ],
)
def test_a_name_that_the_vocabulary_has_in_any_form_is_not_noted(tenant: Tenant, concepts):
    assert tenant.erase(concepts=concepts)["notes"] == []


def test_the_notes_are_bounded(tenant: Tenant):
    notes = tenant.erase(concepts=[f"nonsense {i}" for i in range(50)], method="uce")["notes"]
    assert len(notes) == 21
    assert notes[-1] == "and 30 more"


def test_a_job_is_announced_with_nothing_but_its_id(tenant: Tenant, redis_url: str):
    with Redis.from_url(redis_url) as redis:
        redis.flushdb()
        job = tenant.erase(concepts=["a secret concept"])
        messages = [
            item for key in redis.keys() if redis.type(key) == b"list" for item in redis.lrange(key, 0, -1)
        ]
    assert len(messages) == 1
    assert job["id"].encode() in messages[0]
    assert b"secret" not in messages[0]


def test_a_silent_broker_does_not_fail_the_request(postgres_url: str, tmp_path):
    settings = make_settings(postgres_url, "redis://127.0.0.1:1/0", tmp_path)
    with serve(settings) as (url, _):
        tenant = Tenant(url, settings)
        assert tenant.erase()["status"] == "queued"
        assert tenant.http().get("/readyz").json() == {
            "status": "degraded",
            "checks": {"database": "ok", "redis": "down", "queue": "running", "workers": "none ready"},
        }
        assert "expunge_bell_failures_total 1.0" in tenant.http().get("/metrics").text


def test_waiting_answers_when_the_job_has_ended(tenant: Tenant, tmp_path):
    client = tenant.http()
    found: list[httpx.Response] = []
    thread = threading.Thread(
        target=lambda: found.append(
            client.post("/jobs/erase", json=SPEC, headers={"Prefer": "respond-async, wait=25"})
        )
    )
    thread.start()
    while not (jobs := tenant.http().get("/jobs").json()["items"]):
        pass
    tenant.finish(jobs[0]["id"], {"a.txt": b"a"}, tmp_path)
    thread.join()
    assert found[0].status_code == 200
    assert found[0].headers["preference-applied"] == "wait=25"
    assert found[0].json()["status"] == "succeeded"
    assert found[0].json()["artifacts"][0]["name"] == "a.txt"


def test_waiting_ends_with_the_clients_patience(tenant: Tenant):
    answer = tenant.http().post("/jobs/erase", json=SPEC, headers={"Prefer": "wait=1"})
    assert answer.status_code == 202
    assert answer.json()["status"] == "queued"


def test_the_same_key_makes_one_job_and_gives_the_first_answer_again(tenant: Tenant):
    client = tenant.http()
    headers = {"Idempotency-Key": str(uuid.uuid4())}
    first = client.post("/jobs/erase", json=SPEC, headers=headers)
    tenant.claim(first.json()["id"])
    again = client.post(
        "/jobs/erase",
        content=b'{"method":"uce",  "concepts":["church"]}',
        headers={**headers, "Content-Type": "application/json"},
    )
    assert (again.status_code, again.json(), again.headers["location"]) == (
        202,
        first.json(),
        first.headers["location"],
    )
    assert again.headers["idempotency-replayed"] == "true"
    assert "idempotency-replayed" not in first.headers
    assert tenant.count() == 1


def test_the_same_key_with_another_request_is_refused(tenant: Tenant):
    client = tenant.http()
    headers = {"Idempotency-Key": str(uuid.uuid4())}
    client.post("/jobs/erase", json=SPEC, headers=headers)
    problem(
        client.post("/jobs/erase", json={**SPEC, "seed": 1}, headers=headers), 422, "idempotency_mismatch"
    )
    problem(client.post("/jobs/erase?dry_run=false", json=SPEC, headers=headers), 422, "idempotency_mismatch")
    assert tenant.count() == 1


def test_keys_of_other_tenants_are_other_keys(tenant: Tenant, other: Tenant):
    headers = {"Idempotency-Key": "the-same"}
    mine = tenant.http().post("/jobs/erase", json=SPEC, headers=headers).json()
    theirs = other.http().post("/jobs/erase", json=SPEC, headers=headers).json()
    assert mine["id"] != theirs["id"]


def test_a_refused_request_does_not_use_up_its_key(tenant: Tenant):
    client = tenant.http()
    headers = {"Idempotency-Key": str(uuid.uuid4())}
    errors(client.post("/jobs/erase", json={"concepts": [""]}, headers=headers))
    assert client.post("/jobs/erase", json=SPEC, headers=headers).status_code == 202


def test_twenty_posts_at_once_with_one_key_make_one_job(tenant: Tenant):
    client = tenant.http()
    headers = {"Idempotency-Key": str(uuid.uuid4())}
    start = threading.Barrier(20)

    def post(_: int) -> httpx.Response:
        start.wait()
        return client.post("/jobs/erase", json=SPEC, headers=headers)

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(post, range(20)))
    assert {a.status_code for a in answers} <= {202, 409}
    for answer in answers:
        if answer.status_code == 409:
            problem(answer, 409, "idempotency_in_flight")
            assert answer.headers["retry-after"]
    assert len({a.json()["id"] for a in answers if a.status_code == 202}) == 1
    assert tenant.count() == 1


def test_the_list_is_newest_first_and_pages_are_stable_under_inserts(tenant: Tenant):
    client = tenant.http()
    made = [tenant.erase()["id"] for _ in range(7)]
    page = client.get("/jobs", params={"limit": 3}).json()
    seen = [job["id"] for job in page["items"]]
    while page["next_cursor"]:
        tenant.erase()
        page = client.get("/jobs", params={"limit": 3, "cursor": page["next_cursor"]}).json()
        seen += [job["id"] for job in page["items"]]
    assert seen == made[::-1]


def test_the_list_filters_by_kind_status_and_labels(tenant: Tenant):
    client = tenant.http()
    a = tenant.erase(labels={"team": "safety", "n": "1"})["id"]
    b = tenant.erase(labels={"team": "safety", "n": "a:b"})["id"]
    c = tenant.erase()["id"]
    tenant.claim(c)

    def ids(**params: object) -> list[str]:
        return [job["id"] for job in client.get("/jobs", params=params).json()["items"]]

    assert ids(status="running") == [c]
    assert ids(kind="evaluate") == []
    assert ids(kind="erase", label="team:safety") == [b, a]
    assert ids(label=["team:safety", "n:a:b"]) == [b]
    assert ids(label="team:saf") == []


def test_the_list_holds_no_other_tenants_jobs(tenant: Tenant, other: Tenant):
    other.erase()
    assert tenant.http().get("/jobs").json() == {"items": [], "next_cursor": None}


def test_cancelling_a_queued_job_ends_it_and_twice_is_the_same_as_once(tenant: Tenant):
    client, job = tenant.http(), tenant.erase()
    first = client.post(f"/jobs/{job['id']}/cancel")
    assert (first.status_code, first.json()["status"]) == (200, "cancelled")
    assert client.post(f"/jobs/{job['id']}/cancel").json() == first.json()


def test_cancelling_a_running_job_asks_its_worker_to_stop(tenant: Tenant):
    job = tenant.erase()
    tenant.claim(job["id"])
    assert tenant.http().post(f"/jobs/{job['id']}/cancel").json()["status"] == "cancelling"


def test_cancelling_a_finished_job_leaves_it(tenant: Tenant, tmp_path):
    job = tenant.erase()
    tenant.finish(job["id"], {}, tmp_path)
    assert tenant.http().post(f"/jobs/{job['id']}/cancel").json()["status"] == "succeeded"


def test_retrying_a_failed_job_makes_a_linked_one(tenant: Tenant):
    client, job = tenant.http(), tenant.erase(seed=5)
    tenant.fail(job["id"], tenant.claim(job["id"]))
    failed = client.get(f"/jobs/{job['id']}").json()
    assert failed["error"] == {
        "code": "diverged",
        "message": "the loss is NaN",
        "retryable": True,
        "attempt": 1,
    }
    headers = {"Idempotency-Key": "again"}
    answer = client.post(f"/jobs/{job['id']}/retry", headers=headers)
    assert answer.status_code == 202
    again = answer.json()
    assert again["retried_from"] == job["id"]
    assert again["spec"] == job["spec"]
    assert client.post(f"/jobs/{job['id']}/retry", headers=headers).json()["id"] == again["id"]
    assert tenant.count() == 2


def test_retrying_an_unfinished_job_is_refused(tenant: Tenant):
    problem(tenant.http().post(f"/jobs/{tenant.erase()['id']}/retry"), 409, "wrong_state")


def test_evaluating_a_finished_job_takes_over_its_concepts(tenant: Tenant, tmp_path):
    client, job = tenant.http(), tenant.erase()
    assert "succeeded" in errors(client.post("/jobs/evaluate", json={"job_id": job["id"]}))["job_id"]
    tenant.finish(job["id"], {"pytorch_lora_weights.safetensors": b"x"}, tmp_path)
    answer = client.post("/jobs/evaluate", json={"job_id": job["id"]})
    assert answer.status_code == 202
    assert answer.json()["kind"] == "evaluate"
    assert [c["name"] for c in answer.json()["spec"]["concepts"]] == ["church"]


def test_evaluating_anothers_job_is_like_evaluating_no_job(tenant: Tenant, other: Tenant, tmp_path):
    theirs = other.erase()["id"]
    other.finish(theirs, {}, tmp_path)
    assert (
        "there is no job" in errors(tenant.http().post("/jobs/evaluate", json={"job_id": theirs}))["job_id"]
    )


@pytest.mark.parametrize(
    "spec", [{}, {"job_id": str(uuid.uuid4()), "artifact_id": str(uuid.uuid4()), "concepts": ["church"]}]
)
def test_an_evaluation_needs_exactly_one_source(tenant: Tenant, spec: dict):
    assert "exactly one" in errors(tenant.http().post("/jobs/evaluate", json=spec))["body"]


def test_a_spec_s_words_are_gathered_beside_the_event_loop(tenant: Tenant, monkeypatch: pytest.MonkeyPatch):
    """Many long words take a while, in which every other request would wait."""
    seen, gather = [], logs.own_words
    monkeypatch.setattr(
        logs, "own_words", lambda spec: (seen.append(threading.current_thread().name), gather(spec))[1]
    )
    assert tenant.http().post("/jobs/erase?dry_run=true", json=SPEC).status_code == 200
    assert seen
    assert all(name.startswith("AnyIO worker thread") for name in seen), seen
