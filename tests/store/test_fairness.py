"""Whose turn it is: tenants take turns, quotas hold under many threads, and ten thousand waiting jobs cost a
claim no more than a hundred.
"""

import json
import uuid
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier

import pytest
from sqlalchemy import event, text
from sqlalchemy.orm import Session

from expunge.store import (
    attempts,
    db,
    jobs,
    keys,
    queue_claims,
    queue_pauses,
    queue_recovery,
)
from expunge.store.models import Job
from expunge.store.queue_announcements import BATCH, next_to_announce
from tests.support.cluster import until

LEASE = timedelta(hours=1)
NOW, AGAIN = timedelta(0), timedelta(seconds=30)


def flood(session: Session, tenant_id: uuid.UUID, n: int, **columns: str) -> None:
    """So many queued jobs, one a millisecond, without events."""
    extra = "".join(f", {name}" for name in columns), "".join(f", {value}" for value in columns.values())
    session.execute(
        text(
            f"insert into jobs (id, tenant_id, kind, spec, available_at{extra[0]}) select gen_random_uuid(),"
            f" :tenant, 'erase', '{{}}', now() - interval '1 h' + i * interval '1 ms'{extra[1]} from"
            " generate_series(1, :n) i"
        ),
        {"tenant": tenant_id, "n": n},
    )
    session.commit()


@pytest.fixture
def claim(database_url: str) -> Callable[..., Job | None]:
    """claim(max_running=None): the fairest job, claimed and committed."""

    def claimed(**more: int) -> Job | None:
        with db.transaction(database_url) as session:
            return queue_claims.claim_next(session, owner="test", lease=LEASE, **more)

    return claimed


@pytest.fixture
def post(database_url: str) -> Callable[..., Job]:
    """post(tenant): a queued job."""

    def posted(tenant, **arguments: object) -> Job:
        with db.transaction(database_url) as session:
            return jobs.create_job(session, tenant.id, "erase", {}, **arguments)

    return posted


def end(database_url: str, job: Job) -> None:
    with db.transaction(database_url) as session:
        attempts.fail(session, job.id, job.fence, code="c", message="m", retryable=False)


def test_a_single_job_is_next_though_another_tenant_came_first_with_a_thousand(
    database_url, session, tenant, other_tenant, claim, post
):
    flood(session, tenant.id, 1000)
    running = claim()
    single = post(other_tenant)
    end(database_url, running)
    assert claim().id == single.id


def test_tenants_take_turns_whatever_they_have_waiting(database_url, session, tenant, other_tenant, claim):
    flood(session, tenant.id, 50)
    flood(session, other_tenant.id, 3)
    with db.transaction(database_url) as opened:
        third = keys.ensure_tenant(opened, "third")
    flood(session, third.id, 3)
    turns = []
    for _ in range(11):
        job = claim()
        turns.append(job.tenant_id)
        end(database_url, job)
    for round_ in (turns[:3], turns[3:6], turns[6:9]):
        assert set(round_) == {tenant.id, other_tenant.id, third.id}
    assert turns[9:] == [tenant.id] * 2


def test_whoever_has_fewest_running_is_next(session, tenant, other_tenant, claim):
    flood(session, tenant.id, 9)
    flood(session, other_tenant.id, 9)
    assert Counter(claim().tenant_id for _ in range(6)) == {tenant.id: 3, other_tenant.id: 3}


def test_of_one_tenant_the_oldest_job_is_first_and_what_is_not_due_is_left(session, tenant, claim, post):
    jobs_ = [post(tenant) for _ in range(3)]
    session.execute(
        text("update jobs set available_at = now() + interval '1 h' where id = :id"), {"id": jobs_[1].id}
    )
    session.commit()
    assert [claim().id, claim().id] == [jobs_[0].id, jobs_[2].id]
    assert claim() is None


def test_a_dead_workers_job_is_taken_over_in_its_tenants_turn(
    session, tenant, other_tenant, claim, post, expire
):
    lost, fresh = post(tenant), post(other_tenant)
    assert claim().id == lost.id
    expire(lost.id)
    assert claim().id == fresh.id, "the other tenant has not had its turn"
    heir = claim()
    assert (heir.id, heir.attempt, heir.fence) == (lost.id, 2, 2)
    assert claim() is None


def test_eight_threads_claim_each_of_two_hundred_jobs_once(database_url, session, tenant, other_tenant):
    """F15: at a barrier, of two tenants."""
    for each in (tenant, other_tenant):
        flood(session, each.id, 100)
    barrier = Barrier(8)

    def worker(owner: int) -> list[uuid.UUID]:
        barrier.wait()
        won = []
        while True:
            with db.transaction(database_url) as mine:
                job = queue_claims.claim_next(mine, owner=str(owner), lease=LEASE)
            if job is None:
                return won
            won.append(job.id)

    with ThreadPoolExecutor(8) as pool:
        claimed = Counter(job_id for won in pool.map(worker, range(8)) for job_id in won)
    assert (len(claimed), set(claimed.values())) == (200, {1})
    assert (
        session.scalar(
            text("select count(*) from jobs where status = 'running' and attempt = 1 and fence = 1")
        )
        == 200
    )


@pytest.mark.parametrize("own", [None, 2])
def test_eight_threads_never_start_more_of_a_tenant_than_its_quota(
    database_url, session, tenant, other_tenant, own
):
    flood(session, tenant.id, 50)
    flood(session, other_tenant.id, 2)
    session.execute(
        text("update tenants set max_running_jobs = :own where id = :id"), {"own": own, "id": tenant.id}
    )
    session.commit()
    barrier = Barrier(8)

    def worker(owner: int) -> list[uuid.UUID]:
        barrier.wait()
        won = []
        for _ in range(8):
            with db.transaction(database_url) as mine:
                job = queue_claims.claim_next(mine, owner=str(owner), lease=LEASE, max_running=3)
            won += [] if job is None else [job.tenant_id]
        return won

    with ThreadPoolExecutor(8) as pool:
        claimed = Counter(tenant_id for won in pool.map(worker, range(8)) for tenant_id in won)
    assert claimed == {tenant.id: own or 3, other_tenant.id: 2}


def test_an_ended_job_makes_room_in_the_quota(database_url, session, tenant, claim):
    flood(session, tenant.id, 3)
    first = claim(max_running=1)
    assert claim(max_running=1) is None
    end(database_url, first)
    assert claim(max_running=1) is not None


def test_a_tenant_whose_row_is_held_is_passed_over_and_waited_for_when_it_is_the_only_one(
    database_url, session, tenant, other_tenant, claim, post
):
    first, second = post(tenant), post(other_tenant)
    with db.transaction(database_url) as choosing, ThreadPoolExecutor(1) as pool:
        assert queue_claims.claim_next(choosing, owner="a", lease=LEASE).id == first.id
        third = post(tenant)
        assert claim().id == second.id
        waiting = pool.submit(claim)
        choosing.commit()
        assert waiting.result().id == third.id


def test_a_tenants_only_job_is_waited_for_while_the_dispatcher_announces_it(
    database_url, session, tenant, other_tenant, claim, post
):
    """F30: its turn is not given to the tenant with many."""
    single, waiting = (
        post(tenant),
        (
            "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type ="
            " 'Lock'"
        ),
    )
    flood(session, other_tenant.id, 3)
    session.execute(
        text("update tenants set last_started_at = now() where id = :id"), {"id": other_tenant.id}
    )
    session.commit()
    with db.transaction(database_url) as announcing, ThreadPoolExecutor(1) as pool:
        assert single.id in next_to_announce(announcing, grace=NOW, again=AGAIN)
        claimed = pool.submit(claim)
        until(lambda: claimed.done() or session.scalar(text(waiting)))
        announcing.commit()
        assert claimed.result().id == single.id


def test_announcements_take_turns_too(database_url, session, tenant, other_tenant, post):
    flood(session, tenant.id, 300)
    single = post(other_tenant)
    ids = next_to_announce(session, grace=NOW, again=AGAIN)
    assert len(ids) == BATCH
    assert single.id in ids[:2]
    session.commit()
    assert single.id not in next_to_announce(session, grace=NOW, again=AGAIN)


def test_who_is_paused_or_runs_all_it_may_is_not_announced(session, tenant, other_tenant, claim, post):
    flood(session, tenant.id, 5)
    single = post(other_tenant)
    queue_pauses.pause(session, tenant.id)
    assert next_to_announce(session, grace=NOW, again=NOW) == [single.id]
    session.commit()
    claim()
    post(other_tenant)
    assert next_to_announce(session, grace=NOW, again=NOW, max_running=1) == []
    assert len(next_to_announce(session, grace=NOW, again=NOW)) == 1


def plans(session: Session, act: Callable[[], object]) -> list[dict]:
    """What PostgreSQL did for each statement on jobs within an act, as EXPLAIN ANALYZE says."""
    seen: list[tuple[str, object]] = []

    def note(_connection, _cursor, statement, parameters, *_rest) -> None:
        seen.append((statement, parameters))

    engine = session.get_bind()
    event.listen(engine, "before_cursor_execute", note)
    try:
        act()
    finally:
        event.remove(engine, "before_cursor_execute", note)
    session.rollback()
    found = []
    for statement, parameters in [each for each in seen if "jobs" in each[0]]:
        raw = (
            session.connection()
            .exec_driver_sql(f"explain (analyze, format json) {statement}", parameters)
            .scalar()
        )
        session.rollback()
        found += raw if isinstance(raw, list) else json.loads(raw)
    return [each["Plan"] for each in found]


def nodes(plan: dict) -> list[dict]:
    return [plan, *(below for child in plan.get("Plans", ()) for below in nodes(child))]


@pytest.mark.parametrize("analysed", [True, False], ids=["statistics", "no statistics"])
@pytest.mark.parametrize("act", ["claim", "announce", "announce again", "reap"])
def test_what_workers_and_loops_ask_of_ten_thousand_jobs_reads_a_few_hundred_rows_at_most(
    session, tenant, other_tenant, act, analysed
):
    """10,000 jobs wait, of every age of announcement; jobs are never scanned through, neither the table nor
    an index of it.
    """
    seen = "now() - interval '10 s'" if act == "announce" else "now() - interval '1 min'"
    flood(
        session,
        tenant.id,
        10_000,
        dispatched_at="null" if act == "claim" else seen,
        queue_deadline_at="now() + interval '1 day'",
    )
    flood(session, other_tenant.id, 1)
    session.execute(
        text("analyze jobs" if analysed else "delete from pg_statistic where starelid = 'jobs'::regclass")
    )
    session.commit()
    acts: dict[str, Callable[[], object]] = {
        "claim": lambda: queue_claims.claim_next(session, owner="test", lease=LEASE),
        "announce": lambda: next_to_announce(session, grace=NOW, again=AGAIN, limit=20),
        "announce again": lambda: next_to_announce(session, grace=NOW, again=AGAIN, limit=20),
        "reap": lambda: queue_recovery.reap(session, backoff=1),
    }
    found = [node for plan in plans(session, acts[act]) for node in nodes(plan)]
    scans = [node for node in found if node.get("Relation Name") == "jobs" and "Scan" in node["Node Type"]]
    assert scans
    assert not [node for node in scans if node["Node Type"] == "Seq Scan"]
    read = sum(
        (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"] for node in scans
    )
    assert read < 1000
