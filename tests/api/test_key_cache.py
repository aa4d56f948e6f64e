"""What a process remembers of keys, and what it asks the database to show a job."""

import asyncio
import threading
import time
import uuid
from collections.abc import Iterator

import pytest
from sqlalchemy import event

from expunge.api.caller import Caller
from expunge.api.key_cache import MAX_KEYS, KeyCache
from expunge.store import db
from expunge.store.settings import Settings
from tests.support.service import Tenant, problem, serve


@pytest.fixture
def elsewhere(settings: Settings) -> Iterator[str]:
    """Another API process on the same database."""
    with serve(settings) as (url, _):
        yield url


def somebody() -> Caller:
    return Caller(uuid.uuid4(), uuid.uuid4(), frozenset())


def test_a_key_revoked_at_one_process_is_refused_there_at_once_and_elsewhere_within_a_second(
    tenant: Tenant, elsewhere: str
):
    admin, client = tenant.http("admin"), tenant.http("jobs:read")
    there = f"{elsewhere}/jobs"
    assert client.get("/jobs").status_code == client.get(there).status_code == 200
    mine = next(key for key in admin.get("/keys").json()["items"] if key["scopes"] == ["jobs:read"])
    assert admin.delete(f"/keys/{mine['id']}").status_code == 200
    problem(client.get("/jobs"), 401, "unauthorized")
    time.sleep(1)
    problem(client.get(there), 401, "unauthorized")


def test_a_lookup_that_was_under_way_when_a_key_ended_is_neither_shared_nor_remembered():
    cache, caller, under_way, over = KeyCache(), somebody(), threading.Event(), threading.Event()

    def slow(_: str) -> Caller:
        under_way.set()
        over.wait(30)
        return caller

    async def both() -> tuple[Caller | None, Caller | None, Caller | None]:
        first = asyncio.create_task(cache.find_caller("key", slow))
        await asyncio.to_thread(under_way.wait, 30)
        cache.clear()
        second = await cache.find_caller("key", lambda _: None)
        over.set()
        return await first, second, await cache.find_caller("key", lambda _: None)

    assert asyncio.run(both()) == (caller, None, None)


def test_requests_of_one_moment_share_a_lookup_and_those_after_it_what_it_found():
    cache, caller, asked = KeyCache(), somebody(), []

    def lookup(token: str) -> Caller:
        asked.append(token)
        return caller

    async def many() -> list[Caller | None]:
        at_once = await asyncio.gather(*(cache.find_caller("key", lookup) for _ in range(20)))
        return [*at_once, await cache.find_caller("key", lookup)]

    assert asyncio.run(many()) == [caller] * 21
    assert asked == ["key"]


def test_a_lookup_that_fails_fails_those_who_wait_for_it_and_no_others():
    cache, caller = KeyCache(), somebody()

    def broken(_: str) -> Caller:
        raise ConnectionError

    async def run() -> tuple[list[object], Caller | None]:
        failed = await asyncio.gather(
            *(cache.find_caller("key", broken) for _ in range(3)), return_exceptions=True
        )
        return list(map(type, failed)), await cache.find_caller("key", lambda _: caller)

    assert asyncio.run(run()) == ([ConnectionError] * 3, caller)


def test_what_is_remembered_is_bounded_and_holds_no_key():
    cache, caller = KeyCache(), somebody()

    async def many() -> None:
        for n in range(MAX_KEYS + 10):
            await cache.find_caller(f"key-{n}", lambda _: caller)

    asyncio.run(many())
    assert len(cache.entries) == MAX_KEYS
    assert b"key" not in b"".join(cache.entries)
    assert cache.lookups == {}


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
