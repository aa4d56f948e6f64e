"""API keys over HTTP."""

import uuid
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from sqlalchemy import text

from expunge.store import db, keys
from tests.support.service import Tenant, errors, problem

FREE = ("jobs:read", "jobs:write", "artifacts:read", "keys:read", "webhooks:write")


def make(client: httpx.Client, *scopes: str, **body: object) -> dict:
    answer = client.post("/keys", json={"name": "ci", "scopes": scopes or ("jobs:read",), **body})
    assert answer.status_code == 201, answer.text
    assert answer.headers["location"] == f"/keys/{answer.json()['id']}"
    return answer.json()


def status(tenant: Tenant, key: str) -> int:
    return httpx.get(f"{tenant.url}/jobs", headers={"Authorization": f"Bearer {key}"}).status_code


def test_anonymous_and_keys_without_admin_get_nowhere(tenant: Tenant, anonymous: httpx.Client):
    id_ = make(tenant.http("admin"))["id"]
    for verb, path in (
        ("POST", "/keys"),
        ("GET", "/keys"),
        ("GET", f"/keys/{id_}"),
        ("POST", f"/keys/{id_}/rotate"),
        ("DELETE", f"/keys/{id_}"),
    ):
        problem(anonymous.request(verb, path), 401, "unauthorized")
        problem(tenant.http(*FREE).request(verb, path), 403, "forbidden")


def test_a_key_is_shown_once_works_and_may_do_no_more_than_its_scopes(tenant: Tenant):
    admin = tenant.http("admin")
    made = make(admin, "jobs:read", "jobs:read")
    text_ = made.pop("key")
    assert made["scopes"] == ["jobs:read"]
    assert keys.is_well_formed(text_)
    assert status(tenant, text_) == 200
    problem(
        httpx.post(f"{tenant.url}/jobs/erase", headers={"Authorization": f"Bearer {text_}"}), 403, "forbidden"
    )
    listed = next(k for k in admin.get("/keys").json()["items"] if k["id"] == made["id"])
    assert {**listed, "last_used_at": None} == made
    assert listed["last_used_at"]
    assert text_ not in admin.get("/keys").text
    with db.transaction(tenant.database) as session:
        for table in ("api_keys", "idempotency", "audit"):
            assert text_ not in str(
                session.execute(text(f"select row_to_json({table})::text from {table}")).all()
            )


def test_a_repeat_makes_no_second_key_and_shows_no_text(tenant: Tenant):
    admin, once = tenant.http("admin"), {"Idempotency-Key": str(uuid.uuid4())}
    body = {"name": "ci", "scopes": ["admin"]}
    first, again = (admin.post("/keys", json=body, headers=once) for _ in range(2))
    assert again.json() == {**first.json(), "key": None}
    assert again.headers["idempotency-replayed"] == "true"


def test_a_revoked_key_is_refused_from_the_next_request_on(tenant: Tenant):
    admin = tenant.http("admin")
    made = make(admin)
    assert status(tenant, made["key"]) == 200
    revoked = admin.delete(f"/keys/{made['id']}").json()
    assert status(tenant, made["key"]) == 401
    assert revoked["revoked_at"]
    assert admin.delete(f"/keys/{made['id']}").json() == revoked
    problem(admin.post(f"/keys/{made['id']}/rotate"), 409, "wrong_state")


def test_a_rotation_ends_the_old_key_at_once_or_later(tenant: Tenant):
    admin = tenant.http("admin")
    old = make(admin, "jobs:read", "artifacts:read", expires_in_s=3600)
    new = admin.post(f"/keys/{old['id']}/rotate", json={"overlap_s": 60}).json()
    assert (new["name"], new["scopes"], new["expires_at"]) == (old["name"], old["scopes"], old["expires_at"])
    assert (status(tenant, old["key"]), status(tenant, new["key"])) == (200, 200)
    assert admin.get(f"/keys/{old['id']}").json()["expires_at"] < old["expires_at"]
    newer = admin.post(f"/keys/{new['id']}/rotate", json={"overlap_s": 0}).json()
    assert (status(tenant, new["key"]), status(tenant, newer["key"])) == (401, 200)


def test_a_rotation_whose_answer_was_lost_locks_nobody_out(tenant: Tenant):
    """A repetition cannot show the text again, so the old key works for a day, and rotates once more."""
    admin = tenant.http("admin")
    old = make(admin, "admin")
    holder = tenant.http("admin")
    holder.headers["Authorization"] = f"Bearer {old['key']}"
    request = {"url": f"/keys/{old['id']}/rotate", "headers": {"Idempotency-Key": "lost"}}
    lost = holder.post(**request).json()
    again = holder.post(**request)
    assert (again.status_code, again.json()["id"], again.json()["key"]) == (201, lost["id"], None)
    newest = holder.post(f"/keys/{old['id']}/rotate").json()
    assert (status(tenant, old["key"]), status(tenant, newest["key"])) == (200, 200)
    assert holder.delete(f"/keys/{lost['id']}").json()["revoked_at"]
    ends = datetime.fromisoformat(admin.get(f"/keys/{old['id']}").json()["expires_at"])
    assert timedelta(hours=23) < ends - datetime.now(UTC) <= timedelta(days=1)


@pytest.mark.parametrize(
    ("body", "field", "expected"),
    [
        ({"scopes": ["admin"]}, "name", "required"),
        ({"name": "", "scopes": ["admin"]}, "name", "must not be empty"),
        ({"name": " ", "scopes": ["admin"]}, "name", "must not be empty"),
        ({"name": "a\u0000", "scopes": ["admin"]}, "name", "control character"),
        ({"name": "a"}, "scopes", "required"),
        ({"name": "a", "scopes": []}, "scopes", "at least 1"),
        ({"name": "a", "scopes": ["root"]}, "scopes[0]", "'jobs:read'"),
        ({"name": "a", "scopes": ["admin"], "expires_in_s": 0}, "expires_in_s", "60"),
        (
            {"name": "a", "scopes": ["admin"], "expires_in_s": 10**12},
            "expires_in_s",
            "must be at most 315360000",
        ),
        ({"name": "a", "scope": ["admin"]}, "scope", "did you mean 'scopes'"),
    ],
)
def test_a_bad_field_is_named(tenant: Tenant, body: dict, field: str, expected: str):
    assert expected in errors(tenant.http("admin").post("/keys", json=body))[field]


def test_anothers_key_looks_like_none(tenant: Tenant, other: Tenant):
    theirs, admin = make(other.http("admin")), tenant.http("admin")
    for verb, path in (("GET", "/keys/{}"), ("DELETE", "/keys/{}"), ("POST", "/keys/{}/rotate")):
        problem(admin.request(verb, path.format(theirs["id"])), 404, "not_found")
    assert theirs["id"] not in admin.get("/keys").text
    assert status(other, theirs["key"]) == 200


def test_keys_come_in_pages_without_gap_or_repeat(tenant: Tenant):
    admin = tenant.http("admin")
    made = [make(admin)["id"] for _ in range(4)]
    seen, cursor = [], None
    while True:
        page = admin.get("/keys", params={"limit": 2} | ({"cursor": cursor} if cursor else {})).json()
        seen += [k["id"] for k in page["items"]]
        if (cursor := page["next_cursor"]) is None:
            break
    assert seen[:4] == made[::-1]
    assert len(set(seen)) == len(seen) == 5  # with the admin's own
