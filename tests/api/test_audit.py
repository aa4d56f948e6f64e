"""The audit trail over HTTP: each act leaves its row, and nothing else does."""

import uuid
from pathlib import Path

import httpx
import pytest
from sqlalchemy import text

from expunge.store import db
from tests.support.service import Tenant, errors, problem

FILES = {"recovery_key.safetensors": b"key", "pytorch_lora_weights.safetensors": b"delta"}


@pytest.fixture
def admin(tenant: Tenant) -> httpx.Client:
    return tenant.http("admin")


def acts(admin: httpx.Client, **filters: str) -> list[tuple[str, str]]:
    """(action, target), oldest first; the test's own keys aside."""
    items = admin.get("/audit", params={"limit": 200, **filters}).json()["items"]
    return [
        (i["action"], i["target"]["id"])
        for i in items[::-1]
        if i["api_key"] is not None or i["action"] != "key.created"
    ]


def test_the_trail_takes_admin(tenant: Tenant, anonymous: httpx.Client):
    problem(anonymous.get("/audit"), 401, "unauthorized")
    problem(
        tenant.http("jobs:read", "jobs:write", "artifacts:read", "keys:read", "webhooks:write").get("/audit"),
        403,
        "forbidden",
    )


def test_an_act_says_who_when_from_where_and_what(tenant: Tenant, admin: httpx.Client):
    writer = tenant.http("jobs:write")
    answer = writer.post(
        "/jobs/erase", json={"concepts": ["an unspeakable concept"], "labels": {"team": "hush"}}
    )
    [entry] = admin.get("/audit", params={"action": "job.created"}).json()["items"]
    assert entry["target"] == {"type": "job", "id": answer.json()["id"]}
    assert entry["api_key"]["name"] == "test"
    assert (entry["address"], entry["request_id"]) == ("127.0.0.1", answer.headers["x-request-id"])
    assert entry["details"] == {"kind": "erase"}
    assert entry["at"] == answer.json()["created_at"]  # one transaction
    with db.transaction(tenant.database) as session:
        kept = str(session.execute(text("select row_to_json(audit)::text from audit")).all())
    assert "unspeakable" not in kept
    assert "hush" not in kept


def test_every_act_on_jobs_and_artifacts_is_there_once(tenant: Tenant, admin: httpx.Client, tmp_path: Path):
    once = {"Idempotency-Key": str(uuid.uuid4())}
    first, _ = (
        admin.post("/jobs/hide", json={"concepts": ["church"]}, headers=once).json()["id"] for _ in range(2)
    )
    stopped = admin.post("/jobs/erase", json={"concepts": ["church"]}).json()["id"]
    for _ in range(2):
        admin.post(f"/jobs/{stopped}/cancel")
    again = admin.post(f"/jobs/{stopped}/retry").json()["id"]
    made = {a.name: str(a.id) for a in tenant.finish(first, FILES, tmp_path)}
    key, delta = made["recovery_key.safetensors"], made["pytorch_lora_weights.safetensors"]
    for id_ in (key, delta):
        etag = admin.head(f"/artifacts/{id_}/content").headers["etag"]
        assert admin.get(f"/artifacts/{id_}/content", headers={"If-None-Match": etag}).status_code == 304
        assert admin.get(f"/artifacts/{id_}/content", headers={"Range": "bytes=1-2"}).status_code == 206
    for _ in range(2):
        admin.delete(f"/artifacts/{key}")
    admin.post(f"/jobs/{first}/cancel")  # has ended: nothing happens
    problem(admin.post(f"/jobs/{again}/retry"), 409, "wrong_state")
    admin.post("/jobs/erase?dry_run=true", json={"concepts": ["church"]})
    assert acts(admin) == [
        ("job.created", first),
        ("job.created", stopped),
        ("job.cancelled", stopped),
        ("job.retried", again),
        ("recovery_key.read", key),
        ("artifact.downloaded", delta),
        ("recovery_key.revoked", key),
    ]
    [read] = admin.get("/audit", params={"target": delta}).json()["items"]
    assert read["details"] == {"start": 1, "stop": 3}


def test_every_act_on_webhooks_and_keys_is_there_once_without_secrets(tenant: Tenant, admin: httpx.Client):
    url = "https://hooks.example.com/token-in-the-path"
    hook = admin.post("/webhooks", json={"url": url}).json()
    admin.patch(f"/webhooks/{hook['id']}", json={"events": ["job.failed"]})
    admin.patch(f"/webhooks/{hook['id']}", json={"events": ["job.failed"]})
    rotated = admin.post(f"/webhooks/{hook['id']}/rotate").json()
    delivery = admin.post(f"/webhooks/{hook['id']}/ping").json()["id"]
    admin.post(f"/webhooks/{hook['id']}/deliveries/{delivery}/redeliver")
    admin.delete(f"/webhooks/{hook['id']}")
    key = admin.post("/keys", json={"name": "ci", "scopes": ["jobs:read"]}).json()
    new = admin.post(f"/keys/{key['id']}/rotate", json={"overlap_s": 0}).json()
    for _ in range(2):
        admin.delete(f"/keys/{new['id']}")
    webhook = [
        f"webhook.{act}" for act in ("created", "changed", "rotated", "pinged", "redelivered", "removed")
    ]
    assert acts(admin)[:6] == [(action, hook["id"]) for action in webhook]
    assert sorted(acts(admin)[6:]) == sorted(
        [
            ("key.created", key["id"]),
            ("key.created", new["id"]),
            ("key.rotated", key["id"]),
            ("key.revoked", key["id"]),
            ("key.revoked", new["id"]),
        ]
    )
    kept = admin.get("/audit", params={"limit": 200}).text
    for secret in (hook["secret"], rotated["secret"], key["key"], new["key"], "token-in-the-path"):
        assert secret not in kept
    assert "hooks.example.com" in kept


def test_a_tenant_sees_its_own_acts_only(tenant: Tenant, other: Tenant, admin: httpx.Client):
    theirs = other.erase()["id"]
    assert acts(admin) == []
    assert acts(admin, target=theirs) == []


def test_acts_come_in_pages_without_gap_or_repeat_and_bad_filters_are_named(
    tenant: Tenant, admin: httpx.Client
):
    made = [tenant.erase()["id"] for _ in range(5)]
    seen, cursor = [], None
    while True:
        query = {"limit": "2", "action": "job.created"} | ({"cursor": cursor} if cursor else {})
        page = admin.get("/audit", params=query).json()
        seen += [i["target"]["id"] for i in page["items"]]
        if (cursor := page["next_cursor"]) is None:
            break
    assert seen == made[::-1]
    for query in ("action=job.exploded", "target=x", "cursor=x", "limit=0"):
        assert f"query.{query.split('=')[0]}" in errors(admin.get(f"/audit?{query}"))


@pytest.mark.parametrize(
    ("verb", "path", "body"),
    [
        ("POST", "/jobs/erase", {"concepts": ["church"]}),
        ("POST", "/webhooks", {"url": "https://hooks.example.com/"}),
        ("POST", "/keys", {"name": "a", "scopes": ["admin"]}),
        ("GET", "/artifacts/{delta}/content", None),
    ],
)
def test_nothing_is_done_that_cannot_be_noted(
    tenant: Tenant,
    admin: httpx.Client,
    postgres_url: str,
    tmp_path: Path,
    verb: str,
    path: str,
    body: dict | None,
):
    """The act and its row are one transaction: without the table there is neither."""
    delta = {a.name: str(a.id) for a in tenant.finish(tenant.erase()["id"], FILES, tmp_path)}[
        "pytorch_lora_weights.safetensors"
    ]
    before = tenant.count()
    with db.transaction(postgres_url) as session:  # as the owner, which the service is not
        session.connection().exec_driver_sql("alter table audit rename to audit_away")
    try:
        answer = admin.request(verb, path.format(delta=delta), json=body)
        assert answer.status_code >= 500
        assert b"delta" not in answer.content.replace(delta.encode(), b"")
    finally:
        with db.transaction(postgres_url) as session:
            session.connection().exec_driver_sql("alter table audit_away rename to audit")
    assert tenant.count() == before
    assert admin.get("/webhooks").json()["items"] == []
    assert len(admin.get("/keys").json()["items"]) == 2
