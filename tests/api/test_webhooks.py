"""Webhooks over HTTP; what is sent is tested in tests/worker/test_webhooks.py."""

import base64
import json
import uuid
from pathlib import Path
from typing import get_args

import httpx
import pytest
from sqlalchemy import text

from expunge.store import audit, db, keys, webhooks
from expunge.worker.webhooks import Deliverer
from tests.support.service import Tenant, errors, make_settings, problem, serve
from tests.support.webhook_receiver import receiving

URL = "https://hooks.example.com/expunge"
FREE = ("jobs:read", "jobs:write", "artifacts:read", "keys:read")


def make(client: httpx.Client, **body: object) -> dict:
    answer = client.post("/webhooks", json={"url": URL, **body})
    assert answer.status_code == 201, answer.text
    assert answer.headers["location"] == f"/webhooks/{answer.json()['id']}"
    return answer.json()


def deliver(tenant: Tenant, **changes: object) -> None:
    """One round of the loop."""
    loop = Deliverer()
    loop.turn(tenant.settings.model_copy(update=changes))
    for flight in loop.in_flight:
        flight.result()
    loop.pool.shutdown()


def test_anonymous_and_keys_without_the_scope_get_nowhere(tenant: Tenant, anonymous: httpx.Client):
    id_ = make(tenant.http("webhooks:write"))["id"]
    for verb, path in (
        ("POST", "/webhooks"),
        ("GET", "/webhooks"),
        ("PATCH", f"/webhooks/{id_}"),
        ("DELETE", f"/webhooks/{id_}"),
    ):
        problem(anonymous.request(verb, path), 401, "unauthorized")
        problem(tenant.http(*FREE).request(verb, path), 403, "forbidden")


def test_the_secret_is_shown_once_and_stored_encrypted(tenant: Tenant):
    client = tenant.http("webhooks:write")
    made = make(client, description="for the takedown team")
    assert made["events"] == list(webhooks.EVENTS)
    secret = made.pop("secret")
    assert secret.startswith("whsec_")
    assert len(base64.b64decode(secret.removeprefix("whsec_"))) == 32
    assert client.get(f"/webhooks/{made['id']}").json() == made
    assert client.get("/webhooks").json() == {"items": [made]}
    with db.transaction(tenant.database) as session:
        for table in ("webhooks", "idempotency", "audit"):
            assert secret not in str(
                session.execute(text(f"select row_to_json({table})::text from {table}")).all()
            )


def test_a_repeat_makes_no_second_webhook_and_shows_no_secret(tenant: Tenant):
    client, once = tenant.http("webhooks:write"), {"Idempotency-Key": str(uuid.uuid4())}
    first = client.post("/webhooks", json={"url": URL}, headers=once)
    again = client.post("/webhooks", json={"url": URL}, headers=once)
    assert again.headers["idempotency-replayed"] == "true"
    assert again.json() == {**first.json(), "secret": None}
    assert len(client.get("/webhooks").json()["items"]) == 1
    with db.transaction(tenant.database) as session:
        kept = session.scalars(text("select response::text from idempotency")).all()
        assert first.json()["secret"] not in str(kept)


@pytest.mark.parametrize(
    ("body", "field", "expected"),
    [
        ({"url": "http://hooks.example.com/"}, "url", "write https://"),
        ({"url": "https://127.0.0.1/"}, "url", "not public"),
        ({"url": "https://127.1/"}, "url", "unusual form"),
        ({"url": "https://2130706433/"}, "url", "unusual form"),
        ({"url": "https://0x7f.1/"}, "url", "unusual form"),
        ({"url": "https://[::1]/"}, "url", "not public"),
        ({"url": "https://[::ffff:127.0.0.1]/"}, "url", "not public"),
        ({"url": "https://169.254.169.254/latest/meta-data"}, "url", "not public"),
        ({"url": "https://100.64.0.1/"}, "url", "not public"),
        ({"url": "https://localhost./"}, "url", "not public"),
        ({"url": "https://user:pass@hooks.example.com/"}, "url", "signature"),
        ({"url": "https://hooks.example.com:8443/"}, "url", "the allowed ports are 443"),
        ({"url": "https://hooks.example.com/\u0000"}, "url", "encode it"),
        ({"url": "https://hooks.example.com/" + "x" * 2048}, "url", "2048"),
        ({"url": ""}, "url", "must not be empty"),
        ({"url": None}, "url", "must be a text, not null"),
        ({}, "url", "required"),
        ({"url": URL, "events": []}, "events", "at least 1"),
        ({"url": URL, "events": ["job.exploded"]}, "events[0]", "job.succeeded"),
        ({"url": URL, "description": "a\u0000b"}, "description", "control character"),
        ({"url": URL, "description": "x" * 201}, "description", "200"),
        ({"url": URL, "secret": "mine"}, "secret", "a webhook takes: url, events, description, enabled"),
        ({"url": URL, "enabld": True}, "enabld", "did you mean 'enabled'"),
    ],
)
def test_a_bad_field_is_named_with_the_remedy(tenant: Tenant, body: dict, field: str, expected: str):
    found = errors(tenant.http("webhooks:write").post("/webhooks", json=body))
    assert list(found) == [field]
    assert expected in found[field]


def test_what_is_refused_of_a_new_webhook_is_refused_of_an_old_one(tenant: Tenant):
    client = tenant.http("webhooks:write")
    id_ = make(client)["id"]
    assert "not public" in errors(client.patch(f"/webhooks/{id_}", json={"url": "https://10.0.0.1/"}))["url"]
    assert "did you mean 'events'" in errors(client.patch(f"/webhooks/{id_}", json={"event": []}))["event"]
    assert client.get(f"/webhooks/{id_}").json()["url"] == URL


def test_changes_are_kept_and_what_is_omitted_stays(tenant: Tenant):
    client = tenant.http("webhooks:write")
    made = make(client, description="old")
    answer = client.patch(
        f"/webhooks/{made['id']}",
        json={"events": ["job.failed", "job.failed"], "enabled": False, "description": None},
    )
    assert (answer.json()["events"], answer.json()["enabled"], answer.json()["description"]) == (
        ["job.failed"],
        False,
        "old",
    )
    assert client.get(f"/webhooks/{made['id']}").json() == answer.json()
    assert client.patch(f"/webhooks/{made['id']}", json={}).json() == answer.json()
    assert client.delete(f"/webhooks/{made['id']}").status_code == 204
    problem(client.delete(f"/webhooks/{made['id']}"), 404, "not_found")
    assert client.get("/webhooks").json() == {"items": []}


def test_anothers_webhook_looks_like_none(tenant: Tenant, other: Tenant):
    made = make(other.http("webhooks:write"))
    client, unknown = tenant.http("webhooks:write"), str(uuid.uuid4())
    delivery = other.http().post(f"/webhooks/{made['id']}/ping").json()["id"]
    for verb, path in (
        ("GET", "/webhooks/{}"),
        ("PATCH", "/webhooks/{}"),
        ("DELETE", "/webhooks/{}"),
        ("POST", "/webhooks/{}/rotate"),
        ("POST", "/webhooks/{}/ping"),
        ("GET", "/webhooks/{}/deliveries"),
        ("POST", "/webhooks/{}/deliveries/" + delivery + "/redeliver"),
    ):
        body = {"json": {}} if verb == "PATCH" else {}
        theirs = problem(client.request(verb, path.format(made["id"]), **body), 404, "not_found")
        none = problem(client.request(verb, path.format(unknown), **body), 404, "not_found")
        assert {k: v for k, v in theirs.items() if k not in ("instance", "request_id")} == {
            k: v for k, v in none.items() if k not in ("instance", "request_id")
        }
    mine = make(client)["id"]
    problem(client.post(f"/webhooks/{mine}/deliveries/{delivery}/redeliver"), 404, "not_found")
    assert client.get("/webhooks").json()["items"][0]["id"] == mine


def test_there_is_a_most(tenant: Tenant):
    client = tenant.http("webhooks:write")
    for _ in range(webhooks.MAX_WEBHOOKS):
        make(client)
    assert (
        "delete one first"
        in problem(client.post("/webhooks", json={"url": URL}), 409, "wrong_state")["detail"]
    )


def test_a_rotation_gives_a_new_secret_and_says_how_long_both_sign(tenant: Tenant):
    client = tenant.http("webhooks:write")
    made = make(client)
    rotated = client.post(f"/webhooks/{made['id']}/rotate")
    assert rotated.status_code == 200
    assert rotated.json()["secret"] not in (None, made["secret"])
    assert rotated.json()["previous_until"] > made["created_at"]
    assert "secret" not in client.get(f"/webhooks/{made['id']}").json()


def test_a_ping_is_delivered_logged_and_sent_again_on_request(postgres_url: str, redis_url: str, tmp_path):
    settings = make_settings(
        postgres_url, redis_url, tmp_path, webhook_allowed_hosts="127.0.0.1", webhook_retry_seconds=()
    )
    with serve(settings) as (url, _), receiving(500, 200) as receiver:
        tenant = Tenant(url, settings)
        client = tenant.http("webhooks:write")
        id_ = make(client, url=receiver.url())["id"]
        sent = client.post(f"/webhooks/{id_}/ping")
        assert (sent.status_code, sent.json()["event"], sent.json()["status"]) == (202, "ping", "pending")
        deliver(tenant)
        [failed] = client.get(f"/webhooks/{id_}/deliveries").json()["items"]
        assert (failed["id"], failed["status"], failed["next_attempt_at"]) == (
            sent.json()["id"],
            "failed",
            None,
        )
        assert failed["attempts"][0] | {"at": 0, "seconds": 0} == {
            "at": 0,
            "seconds": 0,
            "status": 500,
            "error": "http_status",
        }
        assert "nobody's business" not in client.get(f"/webhooks/{id_}/deliveries").text
        again = client.post(f"/webhooks/{id_}/deliveries/{failed['id']}/redeliver")
        assert (again.status_code, again.json()["status"], again.json()["finished_at"]) == (
            202,
            "pending",
            None,
        )
        deliver(tenant)
        [delivered] = client.get(f"/webhooks/{id_}/deliveries").json()["items"]
        assert (delivered["status"], [a["status"] for a in delivered["attempts"]]) == (
            "delivered",
            [500, 200],
        )
        assert {got.headers["webhook-id"] for got in receiver.got} == {delivered["message_id"]}
        problem(client.post(f"/webhooks/{id_}/deliveries/{uuid.uuid4()}/redeliver"), 404, "not_found")
        client.patch(f"/webhooks/{id_}", json={"enabled": False})
        for path in ("ping", f"deliveries/{failed['id']}/redeliver"):
            assert (
                "enable it" in problem(client.post(f"/webhooks/{id_}/{path}"), 409, "wrong_state")["detail"]
            )


def test_what_waited_goes_on_when_the_webhook_is_enabled_again(postgres_url: str, redis_url: str, tmp_path):
    settings = make_settings(postgres_url, redis_url, tmp_path, webhook_allowed_hosts="127.0.0.1")
    with serve(settings) as (url, _), receiving() as receiver:
        tenant = Tenant(url, settings)
        client = tenant.http("webhooks:write", "jobs:write")
        id_ = make(client, url=receiver.url())["id"]
        client.post(f"/jobs/{tenant.erase()['id']}/cancel")
        client.patch(f"/webhooks/{id_}", json={"enabled": False})
        client.post(f"/jobs/{tenant.erase()['id']}/cancel")  # nobody wants to hear of this one
        deliver(tenant)
        assert receiver.got == []
        client.patch(f"/webhooks/{id_}", json={"enabled": True})
        deliver(tenant)
        assert len(receiver.got) == 1
        assert [d["status"] for d in client.get(f"/webhooks/{id_}/deliveries").json()["items"]] == [
            "delivered"
        ]


def test_deliveries_come_in_pages_without_gap_or_repeat(tenant: Tenant):
    client = tenant.http("webhooks:write")
    id_ = make(client)["id"]
    made = [client.post(f"/webhooks/{id_}/ping").json()["id"] for _ in range(5)]
    seen, cursor = [], None
    while True:
        page = client.get(
            f"/webhooks/{id_}/deliveries", params={"limit": 2} | ({"cursor": cursor} if cursor else {})
        ).json()
        seen += [d["id"] for d in page["items"]]
        if (cursor := page["next_cursor"]) is None:
            break
    assert seen == made[::-1]
    assert "query.cursor" in errors(client.get(f"/webhooks/{id_}/deliveries", params={"cursor": "x"}))


def test_the_document_names_what_the_store_knows():
    found = json.loads((Path(__file__).parents[2] / "openapi.json").read_text())
    (action,) = (p for p in found["paths"]["/audit"]["get"]["parameters"] if p["name"] == "action")
    schemas = found["components"]["schemas"]
    assert tuple(action["schema"]["enum"]) == get_args(audit.Action)
    assert tuple(schemas["WebhookRequest"]["properties"]["events"]["items"]["enum"]) == webhooks.EVENTS
    for answer, field in (("Webhook", "events"), ("Delivery", "event"), ("AuditEntry", "action")):
        assert "enum" not in json.dumps(schemas[answer]["properties"][field])  # a later release may add to it
    assert tuple(schemas["KeyRequest"]["properties"]["scopes"]["items"]["enum"]) == keys.SCOPES
