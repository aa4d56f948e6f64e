"""What a process remembers of keys, and what it asks the database to show a job."""

import time
import uuid
from collections.abc import Iterator

import pytest
from live_service import Tenant, problem, serve
from sqlalchemy import event

from api.auth import Caller
from api.known import Known
from store import db
from store.settings import Settings


@pytest.fixture
def elsewhere(settings: Settings) -> Iterator[str]:
    """Another API process on the same database."""
    with serve(settings) as (url, _):
        yield url


def test_a_key_revoked_at_one_process_is_refused_there_at_once_and_elsewhere_within_a_second(tenant: Tenant, elsewhere: str):
    admin, client = tenant.http("admin"), tenant.http("jobs:read")
    there = f"{elsewhere}/jobs"
    assert client.get("/jobs").status_code == client.get(there).status_code == 200
    mine = next(key for key in admin.get("/keys").json()["items"] if key["scopes"] == ["jobs:read"])
    assert admin.delete(f"/keys/{mine['id']}").status_code == 200
    problem(client.get("/jobs"), 401, "unauthorized")
    time.sleep(1)
    problem(client.get(there), 401, "unauthorized")


def test_a_lookup_that_was_under_way_when_a_key_ended_is_not_remembered():
    known, caller = Known(), Caller(uuid.uuid4(), uuid.uuid4(), frozenset())
    asked = time.monotonic()
    known.forget()
    known.note("key", caller, asked)
    assert known.get("key") is None
    known.note("key", caller, time.monotonic())
    assert known.get("key") is caller


def test_what_is_remembered_is_bounded_and_holds_no_key():
    known, caller = Known(), Caller(uuid.uuid4(), uuid.uuid4(), frozenset())
    for n in range(3000):
        known.note(f"key-{n}", caller, time.monotonic())
    assert known.get("key-2999") is caller
    assert known.get("key-0") is None
    assert b"key" not in b"".join(known.seen)


def test_a_job_is_shown_with_its_artifacts_at_the_cost_of_one_statement(tenant: Tenant, tmp_path):
    made = tenant.finish(tenant.erase()["id"], {"b.bin": b"two", "a.bin": b"one"}, tmp_path)
    client, asked = tenant.http(), []
    job_id = client.get("/jobs").json()["items"][0]["id"]
    engine = db.engine(tenant.database)

    def note(_: object, __: object, statement: str, *___: object) -> None:
        asked.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    try:
        shown = client.get(f"/jobs/{job_id}").json()
    finally:
        event.remove(engine, "before_cursor_execute", note)
    assert [(file["name"], file["size"]) for file in shown["artifacts"]] == [("a.bin", 3), ("b.bin", 3)]
    assert {file["id"] for file in shown["artifacts"]} == {str(each.id) for each in made}
    assert shown == client.get("/jobs").json()["items"][0]
    assert len(asked) == 1, asked
