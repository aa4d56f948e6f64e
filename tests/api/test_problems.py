import uuid

import httpx
import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import InternalError

from expunge.api.problems import KINDS
from expunge.core.specs import METHODS
from expunge.store import db
from expunge.worker.lease import is_unreachable
from tests.support.service import Tenant, errors, make_settings, problem, serve


def post(tenant: Tenant, **spec: object) -> httpx.Response:
    return tenant.http().post("/jobs/erase", json=spec)


def test_an_unknown_model_names_those_that_exist(tenant: Tenant):
    found = errors(post(tenant, model="emojy", concepts=["church"]))
    assert "emojy" in found["model"]
    assert "did you mean 'emoji'" in found["model"]


def test_an_unknown_method_names_those_that_exist(tenant: Tenant):
    for method in ("agee", {"name": "agee"}):
        found = errors(post(tenant, concepts=["church"], method=method))
        [(field, text)] = found.items()
        assert field == ("method" if isinstance(method, str) else "method.name")
        assert "did you mean 'age'" in text
        assert ", ".join(METHODS) in text


@pytest.mark.parametrize(
    ("spec", "field", "expected"),
    [
        ({"method": {"name": "age", "stepps": 3}}, "method.stepps", "did you mean 'steps'"),
        ({"method": {"name": "esd", "lora": {"rnk": 3}}}, "method.lora.rnk", "did you mean 'rank'"),
        ({"evaluation": {"thresholds": {"esr2": 1}}}, "evaluation.thresholds.esr2", "esr1"),
        ({"concept": "church"}, "concept", "did you mean 'concepts'"),
        (
            {"concepts": [{"name": "church", "synonym": "kirk"}]},
            "concepts[0].synonym",
            "did you mean 'synonyms'",
        ),
    ],
)
def test_an_unknown_parameter_names_those_that_exist(tenant: Tenant, spec: dict, field: str, expected: str):
    assert expected in errors(post(tenant, **{"concepts": ["church"], **spec}))[field]


@pytest.mark.parametrize(
    ("spec", "field", "expected"),
    [
        ({}, "concepts", "required"),
        ({"concepts": []}, "concepts", "at least 1"),
        ({"concepts": ["  "]}, "concepts[0]", "must not be empty"),
        ({"concepts": ["x" * 10_000]}, "concepts[0]", "has 10000 characters, at most 200"),
        ({"concepts": ["church", "saw\u0007"]}, "concepts[1]", "control character U+0007"),
        ({"concepts": ["church\u202e"]}, "concepts[0]", "control character U+202E"),
        ({"concepts": ["nul\u0000"]}, "concepts[0]", "control character U+0000"),
        (
            {"concepts": [{"name": "church", "synonyms": ["ok", ""]}]},
            "concepts[0].synonyms[1]",
            "must not be empty",
        ),
        ({"concepts": ["church"], "preserve": ["Church"]}, "preserve", "also to be erased"),
        (
            {"concepts": ["church"], "method": {"name": "uce", "preserve": ["church"]}},
            "method.preserve",
            "also to be erased",
        ),
        ({"concepts": [{"name": "church", "target": "church"}]}, "concepts[0].target", "equals the concept"),
        ({"concepts": [{"name": "a", "target": "b"}, "b"]}, "concepts[0].target", "itself to be erased"),
        ({"concepts": ["church", "CHURCH "]}, "concepts[1]", "named twice"),
        (
            {"concepts": ["church"], "method": {"name": "age", "steps": 0}},
            "method.steps",
            "must be at least 1, not 0",
        ),
        (
            {"concepts": ["church"], "method": {"name": "age", "variant": "pape"}},
            "method.variant",
            "'paper' or 'authors_code'",
        ),
        (
            {"concepts": ["church"], "method": {"name": "esd", "lora": {"target_modules": "xatn"}}},
            "method.lora.target_modules",
            "'xattn'",
        ),
        ({"concepts": ["church"], "method": {"steps": 3}}, "method", ", ".join(METHODS)),
        ({"concepts": ["church"], "method": 3}, "method", ""),
        ({"concepts": ["church"], "labels": {"x" * 65: "y"}}, "labels", "keys have 1 to 64"),
        ({"concepts": ["church"], "labels": {"x": "a\u0000"}}, "labels", "control character"),
        ({"concepts": ["church"], "model": "../emoji"}, "model", ""),
        ({"concepts": ["church"], "model": "/etc/passwd"}, "model", ""),
        ({"concepts": "church"}, "concepts", "list"),
        ({"concepts": ["church"], "seed": 1.5}, "seed", "whole number"),
        ({"concepts": [None]}, "concepts[0]", ""),
    ],
)
def test_a_bad_field_is_named_as_it_was_written(tenant: Tenant, spec: dict, field: str, expected: str):
    found = errors(post(tenant, **spec))
    assert set(found) == {field}
    assert expected in found[field]


def test_several_bad_fields_are_named_together(tenant: Tenant):
    found = errors(post(tenant, concepts=[""], method={"name": "age", "steps": 0, "eta": -1}))
    assert set(found) == {"concepts[0]", "method.steps", "method.eta"}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"{", ""),
        (b'{"concepts": ["church"], "concepts": ["saw"]}', "'concepts' is given twice"),
        (b'{"concepts": ["church"], "seed": NaN}', "NaN is not JSON"),
        (b'{"concepts": ["church"], "seed": -Infinity}', "Infinity is not JSON"),
        (b'{"concepts": ' + b"[" * 5000 + b"]" * 5000 + b"}", "nests deeper"),
        (b'{"concepts": ["\\ud800"]}', ""),
        (b"\xff\xfe{}", ""),
        (b'{"seed": ' + b"9" * 5000 + b"}", ""),
    ],
)
def test_what_is_not_strict_json_is_refused(tenant: Tenant, body: bytes, expected: str):
    answer = tenant.http().post("/jobs/erase", content=body, headers={"Content-Type": "application/json"})
    assert expected in problem(answer, 400, "malformed_request")["detail"]


@pytest.mark.parametrize("body", [b"", b"[]", b'"church"', b"null", b"3"])
def test_a_body_that_is_no_object_is_refused(tenant: Tenant, body: bytes):
    answer = tenant.http().post("/jobs/erase", content=body, headers={"Content-Type": "application/json"})
    assert "body" in errors(answer)


def test_a_body_over_64_kib_is_refused_before_it_is_read(tenant: Tenant):
    client = tenant.http()
    problem(client.post("/jobs/erase", json={"concepts": ["x" * 70_000]}), 413, "payload_too_large")

    def chunks():
        for _ in range(70):
            yield b" " * 1024

    problem(
        client.post("/jobs/erase", content=chunks(), headers={"Content-Type": "application/json"}),
        413,
        "payload_too_large",
    )


@pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_a_body_that_is_not_declared_json_is_refused(tenant: Tenant, media_type: str):
    answer = tenant.http().post(
        "/jobs/erase", content=b'{"concepts": ["church"]}', headers={"Content-Type": media_type}
    )
    problem(answer, 415, "unsupported_media_type")
    assert answer.headers["accept-post"] == "application/json"


def test_a_wrong_method_names_the_right_ones(tenant: Tenant):
    answer = tenant.http().delete("/jobs")
    problem(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "GET, HEAD"
    assert tenant.http().get("/jobs/erase").headers["allow"] == "POST"


def test_an_unknown_path_is_a_problem(tenant: Tenant):
    problem(tenant.http().get("/nowhere"), 404, "not_found")
    assert "ids of other" not in tenant.http().get("/nowhere").json()["detail"]


@pytest.mark.parametrize(
    ("verb", "path", "name"),
    [
        ("GET", "/jobs/not-a-uuid", "job_id"),
        ("POST", f"/jobs/{'-' * 36}/cancel", "job_id"),
        ("GET", "/artifacts/x/content", "artifact_id"),
        ("DELETE", "/keys/1", "key_id"),
        ("POST", f"/webhooks/{uuid.UUID(int=1)}/deliveries/zz/redeliver", "delivery_id"),
    ],
)
def test_an_id_that_is_none_is_named(tenant: Tenant, verb: str, path: str, name: str):
    assert set(errors(tenant.http().request(verb, path))) == {f"path.{name}"}


def test_an_id_is_the_same_in_letters_of_either_case_wherever_it_stands(tenant: Tenant, tmp_path):
    client, job = tenant.http(), tenant.erase()
    tenant.finish(job["id"], {"pytorch_lora_weights.safetensors": b"x"}, tmp_path)
    shouted = job["id"].upper()
    assert client.get(f"/jobs/{shouted}").json()["id"] == job["id"]
    assert client.get("/audit", params={"target": shouted}).json()["items"]
    evaluation = client.post("/jobs/evaluate", json={"job_id": shouted})
    assert evaluation.json()["spec"]["job_id"] == job["id"]
    for bad in ("-" * 36, "a" * 36, shouted[:-1]):
        assert set(
            errors(client.post("/jobs/evaluate", json={"artifact_id": bad, "concepts": ["church"]}))
        ) == {"artifact_id"}
        assert set(errors(client.get("/audit", params={"target": bad}))) == {"query.target"}


@pytest.mark.parametrize("path", ["/jobs", "/models"])
def test_what_cannot_be_answered_as_wanted_is_406(tenant: Tenant, path: str):
    client = tenant.http()
    problem(client.get(path, headers={"Accept": "text/html, application/json;q=0"}), 406, "not_acceptable")
    assert client.get(path, headers={"Accept": "text/html, application/*;q=0.5"}).status_code == 200


@pytest.mark.parametrize("key", ["x" * 256, "tab\there", "caf\u00e9"])
def test_an_unusable_idempotency_key_is_refused(tenant: Tenant, key: str):
    answer = tenant.http().post(
        "/jobs/erase", json={"concepts": ["church"]}, headers={"Idempotency-Key": key.encode()}
    )
    problem(answer, 400, "bad_header")
    assert tenant.count() == 0


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "query.limit"),
        ("limit=x", "query.limit"),
        ("status=lost", "query.status"),
        ("cursor=e30", "query.cursor"),
        ("cursor=%00", "query.cursor"),
        ("label=nokey", "query.label"),
        ("label=a:%00", "query.label"),
    ],
)
def test_a_bad_query_parameter_is_named(tenant: Tenant, query: str, field: str):
    assert field in errors(tenant.http().get(f"/jobs?{query}"))


def test_a_database_that_is_down_is_503_with_retry_after(redis_url: str, tmp_path):
    with serve(make_settings("postgresql://nobody@127.0.0.1:1/none", redis_url, tmp_path)) as (url, _):
        from expunge.store.keys import generate_key

        for path in ("/readyz", "/jobs"):
            answer = httpx.get(url + path, headers={"Authorization": f"Bearer {generate_key()}"})
            problem(answer, 503, "unavailable")
            assert int(answer.headers["retry-after"]) > 0
        assert httpx.get(url + "/healthz").status_code == 200


def test_too_many_unfinished_jobs_are_429_with_retry_after(postgres_url: str, redis_url: str, tmp_path):
    settings = make_settings(postgres_url, redis_url, tmp_path, max_active_jobs=2)
    with serve(settings) as (url, _):
        tenant = Tenant(url, settings)
        first = tenant.erase()["id"]
        tenant.erase()
        client = tenant.http()
        answer = client.post("/jobs/erase", json={"concepts": ["church"]})
        found = problem(answer, 429, "quota_exceeded")
        assert (
            found["detail"] == "You have reached max_active_jobs (2): wait for a job to end, or cancel one."
        )
        assert int(answer.headers["retry-after"]) > 0
        assert answer.headers["ratelimit-policy"] == '"max_active_jobs";q=2'
        client.post(f"/jobs/{first}/cancel")
        assert client.post("/jobs/erase", json={"concepts": ["church"]}).status_code == 202


def test_an_unforeseen_error_shows_only_a_request_id(settings, capfd):
    with serve(settings) as (url, app):
        tenant = Tenant(url, settings)
        app.state.services.settings = None
        answer = tenant.http()
        answer = httpx.get(url + "/metrics", headers={"X-Request-ID": "seen-by-the-operator"})
        found = problem(answer, 500, "internal_error")
        assert found["request_id"] == "seen-by-the-operator"
        assert "NoneType" not in answer.text
    assert "NoneType" in capfd.readouterr().err


def test_every_problem_is_explained_in_the_docs(anonymous: httpx.Client):
    page = anonymous.get("/docs").text
    assert all(f'id="{code}"' in page for code in KINDS)


def test_logs_hold_neither_keys_nor_concepts(settings, capfd):
    with serve(settings) as (url, _):
        tenant = Tenant(url, settings)
        client = tenant.http()
        client.post("/jobs/erase", json={"concepts": ["a very secret concept"]})
        client.get("/jobs", params={"label": "team:hush"})
        token = client.headers["authorization"].split()[1]
    text = capfd.readouterr().err
    assert '"event": "job_created"' in text
    assert '"request_id"' in text
    assert token not in text
    assert "secret" not in text
    assert "hush" not in text


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/keys", "GET, HEAD, POST"),
        (f"/keys/{uuid.UUID(int=1)}", "DELETE, GET, HEAD"),
        (f"/webhooks/{uuid.UUID(int=1)}", "DELETE, GET, HEAD, PATCH"),
        ("/jobs/erase", "POST"),
    ],
)
def test_a_405_lists_every_method_of_the_resource(tenant: Tenant, path: str, methods: str):
    answer = tenant.http().request("OPTIONS", path)
    assert (answer.status_code, answer.headers["allow"]) == (405, methods)


def test_a_database_that_takes_no_writes_is_away_and_the_next_connection_may_lead_to_one_that_does(
    tenant: Tenant, postgres_url: str
):
    """As after a failover, while the old primary still answers."""
    role, client = make_url(tenant.database).username, tenant.http()
    assert client.post("/jobs/erase", json={"concepts": ["church"]}).status_code == 202

    def read_only(value: str) -> None:
        with psycopg.connect(db.psycopg_url(postgres_url), autocommit=True) as owner:
            owner.execute(f"alter role {role} set default_transaction_read_only = {value}")

    read_only("on")
    try:
        db.engine(tenant.database).dispose()
        answer = client.post("/jobs/erase", json={"concepts": ["church"]})
        problem(answer, 503, "unavailable")
        assert int(answer.headers["retry-after"]) > 0
    finally:
        read_only("off")
    assert 202 in [client.post("/jobs/erase", json={"concepts": ["church"]}).status_code for _ in range(2)]
    with db.transaction(tenant.database) as session:
        session.execute(text("set transaction read only"))
        with pytest.raises(InternalError) as caught:
            session.execute(text("delete from idempotency"))
        session.rollback()
    assert is_unreachable(caught.value), "a worker repeats what it had to write"
