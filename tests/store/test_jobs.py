"""Jobs as clients see them."""

import uuid
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from expunge.store import attempts, db, events, jobs
from expunge.store.errors import NotFinished, NotFound
from expunge.store.models import Job, Tenant
from expunge.store.statuses import JobStatus
from tests.support.events import events_of


def seqs(session: Session, job: Job) -> list[int]:
    return [event.seq for event in events_of(session, job.tenant_id, job.id)]


def test_new_job_is_queued_with_its_first_event(session, make):
    job = make(labels={"ticket": "42"})
    assert (job.status, job.attempt, job.version, job.labels) == ("queued", 0, 1, {"ticket": "42"})
    assert [(e.seq, e.type) for e in events_of(session, job.tenant_id, job.id)] == [(1, "queued")]


def test_another_tenants_job_is_not_found(session, make, other_tenant):
    job = make()
    for act in (jobs.get, jobs.cancel, jobs.retry):
        with pytest.raises(NotFound):
            act(session, other_tenant.id, job.id)
    with pytest.raises(NotFound):
        events.list_events(session, other_tenant.id, job.id, after=0, limit=1)
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
    assert attempts.confirm_cancelled(session, job.id, fence).status == "cancelled"
    assert [e.type for e in events_of(session, job.tenant_id, job.id)] == [
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
    new = jobs.retry(session, job.tenant_id, job.id)
    assert (new.retried_from, new.spec, new.labels, new.run_timeout_s) == (job.id, job.spec, {"a": "b"}, 60)
    assert (new.status, new.attempt) == ("queued", 0)


def test_pages_are_stable_while_jobs_come_in(session, make):
    old = [make().id for _ in range(5)]
    first = jobs.list_jobs(session, make().tenant_id, limit=3)
    make()
    rest = jobs.list_jobs(session, first[-1].tenant_id, after=(first[-1].created_at, first[-1].id), limit=10)
    assert [job.id for job in [*first[1:], *rest]] == old[::-1]


def test_jobs_of_one_instant_are_paged_without_loss(session, tenant):
    made = {jobs.create_job(session, tenant.id, "erase", {}).id for _ in range(7)}
    session.commit()
    seen, after = list[uuid.UUID](), None
    while page := jobs.list_jobs(session, tenant.id, after=after, limit=2):
        seen += [job.id for job in page]
        after = (page[-1].created_at, page[-1].id)
    assert sorted(seen) == sorted(made)


def test_list_filters_by_kind_status_and_label(session, make, tenant):
    erase, labelled = make(), make(labels={"team": "a", "x": "1"})
    evaluate = jobs.create_job(session, tenant.id, "evaluate", {})
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
        attempts.report_progress(session, job.id, fence, {"step": step})
    assert seqs(session, job) == [1, 2, 3, 4, 5, 6, 7]
    assert [e.seq for e in events_of(session, job.tenant_id, job.id, after=3, limit=2)] == [4, 5]


def test_seq_has_no_gaps_when_many_write_at_once(database_url, make, take):
    job = make()
    fence = take(job.id).fence

    def write(step: int) -> None:
        with db.transaction(database_url) as session:
            attempts.report_progress(session, job.id, fence, {"step": step})

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(40)))
    with db.transaction(database_url) as session:
        numbers = seqs(session, job)
        assert numbers[0] == 1
        assert all(b == a + 1 for a, b in pairwise(numbers))
        assert numbers[-1] == jobs.get(session, job.tenant_id, job.id).version == 42


def test_metrics_count_jobs_and_the_queues_age(session, make, tenant: Tenant):
    make()
    session.execute(text("update jobs set available_at = now() - interval '90 s'"))
    assert jobs.count_by_status(session)["queued"] == 1
    assert jobs.count_by_status(session)["failed"] == 0
    assert 90 <= jobs.queue_age(session) < 100
    assert jobs.count_active(session, tenant.id) == 1


def test_a_status_is_either_active_or_terminal():
    assert sorted([*JobStatus.active(), *JobStatus.terminal()]) == sorted(JobStatus)
    assert set(JobStatus.leased()) < set(JobStatus.active())
