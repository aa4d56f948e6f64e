"""Jobs as clients see them."""

import uuid
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from expunge.store import attempts, db, events, idempotency, jobs
from expunge.store.errors import KeyInFlight, KeyReused, NotFinished, NotFound
from expunge.store.models import Job, Tenant


def seqs(session: Session, job: Job) -> list[int]:
    return [event.seq for event in events.page(session, job.tenant_id, job.id)]


def test_new_job_is_queued_with_its_first_event(session, make):
    job = make(labels={"ticket": "42"})
    assert (job.status, job.attempt, job.version, job.labels) == ("queued", 0, 1, {"ticket": "42"})
    assert [(e.seq, e.type) for e in events.page(session, job.tenant_id, job.id)] == [(1, "queued")]


def test_nothing_is_kept_of_a_creation_that_is_rolled_back(session, tenant):
    jobs.create_job(session, tenant.id, "erase", {}, idempotency_key="k", request_hash="h")
    session.rollback()
    counts = session.execute(
        text(
            "select (select count(*) from jobs), (select count(*) from events), (select count(*) from"
            " idempotency)"
        )
    )
    assert counts.one() == (0, 0, 0)


def test_same_key_and_body_give_the_first_job_and_its_recorded_answer(session, tenant):
    first = jobs.create_job(session, tenant.id, "erase", {}, idempotency_key="k", request_hash="h")
    idempotency.record(session, tenant.id, "k", response={"status": 202, "body": {"id": str(first.job.id)}})
    session.commit()
    again = jobs.create_job(session, tenant.id, "erase", {}, idempotency_key="k", request_hash="h")
    assert again.replayed
    assert again.job.id == first.job.id
    assert again.response == {"status": 202, "body": {"id": str(first.job.id)}}


def test_same_key_with_another_body_is_refused(session, tenant):
    jobs.create_job(session, tenant.id, "erase", {}, idempotency_key="k", request_hash="h")
    session.commit()
    with pytest.raises(KeyReused):
        jobs.create_job(session, tenant.id, "erase", {}, idempotency_key="k", request_hash="other")


def test_key_whose_first_request_is_still_at_work_is_told_so_at_once(session, database_url, tenant):
    jobs.create_job(session, tenant.id, "erase", {}, idempotency_key="k", request_hash="h")
    with db.transaction(database_url) as second, pytest.raises(KeyInFlight):
        jobs.create_job(second, tenant.id, "erase", {}, idempotency_key="k", request_hash="h")
    session.commit()


def test_an_expired_key_is_new_again(session, tenant):
    first = jobs.create_job(session, tenant.id, "erase", {}, idempotency_key="k", request_hash="h").job
    session.execute(text("update idempotency set expires_at = now() - interval '1 s'"))
    session.commit()
    second = jobs.create_job(session, tenant.id, "erase", {}, idempotency_key="k", request_hash="other")
    assert not second.replayed
    assert second.job.id != first.id


def test_keys_of_two_tenants_do_not_meet(session, tenant, other_tenant):
    a = jobs.create_job(session, tenant.id, "erase", {}, idempotency_key="k", request_hash="h")
    b = jobs.create_job(session, other_tenant.id, "erase", {}, idempotency_key="k", request_hash="x")
    assert a.job.id != b.job.id


def test_twenty_requests_at_once_with_one_key_make_one_job(database_url, tenant):
    def post(_: int) -> uuid.UUID | None:
        try:
            with db.transaction(database_url) as session:
                return jobs.create_job(
                    session, tenant.id, "erase", {}, idempotency_key="k", request_hash="h"
                ).job.id
        except KeyInFlight:
            return None

    with ThreadPoolExecutor(8) as pool:
        ids = set(pool.map(post, range(20))) - {None}
    assert len(ids) == 1
    with db.transaction(database_url) as session:
        assert session.scalar(text("select count(*) from jobs")) == 1


def test_another_tenants_job_is_not_found(session, make, other_tenant):
    job = make()
    for act in (jobs.get, jobs.cancel, jobs.retry):
        with pytest.raises(NotFound):
            act(session, other_tenant.id, job.id)
    assert events.page(session, other_tenant.id, job.id) == []
    assert jobs.list_jobs(session, other_tenant.id) == []
    assert jobs.get(session, job.tenant_id, job.id).status == "queued"


def test_queued_job_is_cancelled_at_once_and_twice_is_once(session, make):
    job = make()
    assert jobs.cancel(session, job.tenant_id, job.id).status == "cancelled"
    version = jobs.cancel(session, job.tenant_id, job.id).version
    assert version == 2
    assert seqs(session, job) == [1, 2]


def test_running_job_is_cancelled_in_two_phases(session, make, take):
    job = make()
    fence = take(job.id).fence
    assert jobs.cancel(session, job.tenant_id, job.id).status == "cancelling"
    assert jobs.cancel(session, job.tenant_id, job.id).status == "cancelling"
    assert attempts.cancelled(session, job.id, fence).status == "cancelled"
    assert [e.type for e in events.page(session, job.tenant_id, job.id)] == [
        "queued",
        "started",
        "cancelling",
        "cancelled",
    ]


def test_retry_makes_a_linked_job_with_the_same_spec(session, make):
    job = make(labels={"a": "b"}, run_timeout_s=60)
    with pytest.raises(NotFinished, match="queued"):
        jobs.retry(session, job.tenant_id, job.id)
    jobs.cancel(session, job.tenant_id, job.id)
    new = jobs.retry(session, job.tenant_id, job.id).job
    assert (new.retried_from, new.spec, new.labels, new.run_timeout_s) == (job.id, job.spec, {"a": "b"}, 60)
    assert (new.status, new.attempt) == ("queued", 0)


def test_pages_are_stable_while_jobs_come_in(session, make):
    old = [make().id for _ in range(5)]
    first = jobs.list_jobs(session, make().tenant_id, limit=3)
    make()
    rest = jobs.list_jobs(session, first[-1].tenant_id, after=(first[-1].created_at, first[-1].id), limit=10)
    assert [job.id for job in [*first[1:], *rest]] == old[::-1]


def test_jobs_of_one_instant_are_paged_without_loss(session, tenant):
    made = {jobs.create_job(session, tenant.id, "erase", {}).job.id for _ in range(7)}
    session.commit()
    seen, after = list[uuid.UUID](), None
    while page := jobs.list_jobs(session, tenant.id, after=after, limit=2):
        seen += [job.id for job in page]
        after = (page[-1].created_at, page[-1].id)
    assert sorted(seen) == sorted(made)


def test_list_filters_by_kind_status_and_label(session, make, tenant):
    erase, labelled = make(), make(labels={"team": "a", "x": "1"})
    evaluate = jobs.create_job(session, tenant.id, "evaluate", {}).job
    jobs.cancel(session, tenant.id, erase.id)
    assert [j.id for j in jobs.list_jobs(session, tenant.id, kind="evaluate")] == [evaluate.id]
    assert [j.id for j in jobs.list_jobs(session, tenant.id, status="cancelled")] == [erase.id]
    assert [j.id for j in jobs.list_jobs(session, tenant.id, labels=[[{"team": "a"}]])] == [labelled.id]
    assert jobs.list_jobs(session, tenant.id, labels=[[{"team": "b"}]]) == []


def test_every_change_wakes_the_listeners_after_its_commit(session, database_url, make):
    job = make()
    with psycopg.connect(database_url, autocommit=True) as listener:
        listener.execute(f"listen {events.CHANNEL}")
        jobs.cancel(session, job.tenant_id, job.id)
        assert list(listener.notifies(timeout=0)) == []
        session.commit()
        assert [n.payload for n in listener.notifies(timeout=10, stop_after=1)] == [str(job.id)]


def test_events_are_paged_by_seq(session, make, take):
    job = make()
    fence = take(job.id).fence
    for step in range(5):
        attempts.progress(session, job.id, fence, {"step": step})
    assert seqs(session, job) == [1, 2, 3, 4, 5, 6, 7]
    assert [e.seq for e in events.page(session, job.tenant_id, job.id, after=3, limit=2)] == [4, 5]


def test_seq_has_no_gaps_when_many_write_at_once(database_url, make, take):
    job = make()
    fence = take(job.id).fence

    def write(step: int) -> None:
        with db.transaction(database_url) as session:
            attempts.progress(session, job.id, fence, {"step": step})

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(40)))
    with db.transaction(database_url) as session:
        numbers = seqs(session, job)
        assert numbers[0] == 1
        assert all(b == a + 1 for a, b in pairwise(numbers))
        assert numbers[-1] == jobs.get(session, job.tenant_id, job.id).version == 42


def test_metrics_count_jobs_and_the_queues_age(session, make, tenant: Tenant):
    job = make()
    session.execute(text("update jobs set available_at = now() - interval '90 s'"))
    assert jobs.count_by_status(session)["queued"] == 1
    assert jobs.count_by_status(session)["failed"] == 0
    assert 90 <= jobs.queue_age(session) < 100
    assert jobs.active_count(session, tenant.id) == 1
    assert jobs.queue_position(session, job) == 0
