"""Claims, fences, publication, and what the loops take from the dead."""

import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from expunge.store import artifacts, attempts, db, jobs, queue_announcements, queue_recovery
from expunge.store.attempts import NewArtifact
from expunge.store.errors import CancelRequested, LostLease
from tests.support.events import events_of

LEASE = timedelta(seconds=60)
NOW, AGAIN = timedelta(0), timedelta(seconds=30)


def artifact(name: str = "a.safetensors") -> NewArtifact:
    return NewArtifact(uuid.uuid4(), name, "application/octet-stream", 3, "0" * 64, f"key/{uuid.uuid4()}")


def reap(session: Session) -> queue_recovery.ReaperRound:
    done = queue_recovery.reap(session, backoff=0)
    session.commit()
    return done


def status(session: Session, job) -> str:
    return jobs.get(session, job.tenant_id, job.id).status


def test_claim_starts_an_attempt_and_a_duplicate_message_finds_nothing(session, make, take):
    job = make()
    held = take(job.id)
    assert (held.status, held.attempt, held.fence) == ("running", 1, 1)
    assert held.started_at is not None
    assert attempts.claim(session, job.id, owner="other", lease=LEASE) is None


def test_eight_workers_at_a_barrier_claim_each_of_fifty_jobs_once(database_url, make):
    ids, barrier = [make().id for _ in range(50)], Barrier(8)

    def worker(owner: int) -> list[uuid.UUID]:
        barrier.wait()
        won = []
        for job_id in ids:
            with db.transaction(database_url) as session:
                if attempts.claim(session, job_id, owner=str(owner), lease=LEASE):
                    won.append(job_id)
        return won

    with ThreadPoolExecutor(8) as pool:
        claimed = Counter(job_id for won in pool.map(worker, range(8)) for job_id in won)
    assert claimed == dict.fromkeys(ids, 1)


def test_a_dead_workers_job_is_taken_over_and_its_writes_are_refused(session, make, take, expire):
    job = make()
    zombie = take(job.id).fence
    expire(job.id)
    heir = take(job.id)
    assert (heir.attempt, heir.fence) == (2, 2)
    writes = [
        lambda: attempts.heartbeat(session, job.id, zombie, LEASE),
        lambda: attempts.report_progress(session, job.id, zombie, {"step": 1}),
        lambda: attempts.add_note(session, job.id, zombie, "c", "m"),
        lambda: attempts.add_checkpoint(session, job.id, zombie, step=1, files={}, keep=2),
        lambda: attempts.publish(session, job.id, zombie, [artifact()], verdict=None, progress=None),
        lambda: attempts.fail(session, job.id, zombie, code="c", message="m", retryable=False),
        lambda: attempts.fail_unless_cancelled(
            session, job.id, zombie, code="c", message="m", retryable=False
        ),
        lambda: attempts.confirm_cancelled(session, job.id, zombie),
        lambda: attempts.release(session, job.id, zombie, reason="r"),
    ]
    for write in writes:
        with pytest.raises(LostLease):
            write()
    session.commit()
    now = jobs.get(session, job.tenant_id, job.id)
    assert (now.status, now.version) == ("running", heir.version)
    assert artifacts.list_of_job(session, job.tenant_id, job.id) == []


def test_heartbeat_extends_the_lease_and_brings_the_cancellation(session, make, take, expire):
    job = make()
    fence = take(job.id).fence
    expire(job.id)
    assert attempts.heartbeat(session, job.id, fence, LEASE) == attempts.Heartbeat(
        cancel_requested=False, past_deadline=False
    )
    session.commit()
    assert attempts.claim(session, job.id, owner="other", lease=LEASE) is None
    jobs.cancel(session, job.tenant_id, job.id)
    assert attempts.heartbeat(session, job.id, fence, LEASE).cancel_requested


def test_publication_is_one_step_and_ends_the_job(session, make, take):
    job = make()
    fence = take(job.id).fence
    stale = attempts.add_checkpoint(
        session, job.id, fence, step=5, files={"s": {"key": "ck", "sha256": "0", "size": 1}}, keep=2
    )
    assert stale == []
    assert attempts.publish(
        session, job.id, fence, [artifact()], verdict={"passed": True}, progress={"step": 9}
    ) == ["ck"]
    done = jobs.get(session, job.tenant_id, job.id)
    assert (done.status, done.verdict, done.progress, done.lease_owner) == (
        "succeeded",
        {"passed": True},
        {"step": 9},
        None,
    )
    assert done.finished_at is not None
    assert [a.name for a in artifacts.list_of_job(session, job.tenant_id, job.id)] == ["a.safetensors"]
    with pytest.raises(LostLease):
        attempts.publish(session, job.id, fence, [artifact("b")], verdict=None, progress=None)


def test_what_is_repeated_after_a_lost_answer_changes_nothing(session, make, take):
    job = make()
    fence = take(job.id).fence
    for _ in range(2):
        assert (
            attempts.add_checkpoint(
                session, job.id, fence, step=5, files={"s": {"key": "ck", "sha256": "0", "size": 1}}, keep=1
            )
            == []
        )
    assert len(attempts.list_checkpoints(session, job.id)) == 1
    bundle = [artifact("a"), artifact("b")]
    published = [
        attempts.publish(session, job.id, fence, bundle, verdict=None, progress=None) for _ in range(2)
    ]
    assert published == [["ck"], []]
    assert len(artifacts.list_of_job(session, job.tenant_id, job.id)) == 2
    types = [event.type for event in events_of(session, job.tenant_id, job.id)]
    assert (types.count("checkpoint"), types.count("succeeded")) == (1, 1)


def test_a_job_that_is_being_cancelled_cannot_be_published(session, make, take):
    job = make()
    fence = take(job.id).fence
    jobs.cancel(session, job.tenant_id, job.id)
    with pytest.raises(CancelRequested):
        attempts.publish(session, job.id, fence, [artifact()], verdict=None, progress=None)


def test_failure_names_the_attempt_it_ended(session, make, take, expire):
    job = make()
    take(job.id)
    expire(job.id)
    failed = attempts.fail(
        session, job.id, take(job.id).fence, code="loss_not_finite", message="m", retryable=False
    )
    assert failed.error == {"code": "loss_not_finite", "message": "m", "retryable": False, "attempt": 2}


def test_a_hand_over_gives_the_attempt_back_but_not_the_fence(session, make, take):
    job = make()
    first = take(job.id)
    assert attempts.release(session, job.id, first.fence, reason="worker_shutdown").status == "queued"
    session.commit()
    assert (second := take(job.id)).attempt == 1
    assert second.fence == 2


def test_only_the_last_checkpoints_are_kept(session, make, take):
    job = make()
    fence = take(job.id).fence
    stale = [
        attempts.add_checkpoint(
            session, job.id, fence, step=s, files={"f": {"key": f"k{s}", "sha256": "0", "size": 1}}, keep=2
        )
        for s in range(4)
    ]
    assert stale == [[], [], ["k0"], ["k1"]]
    assert [row.step for row in attempts.list_checkpoints(session, job.id)] == [3, 2]


def test_reaper_requeues_with_backoff_and_gives_up_after_the_last_attempt(session, make, take, expire):
    job = make(max_attempts=2)
    take(job.id)
    assert reap(session) == queue_recovery.ReaperRound()
    expire(job.id)
    queue_recovery.reap(session, backoff=100)
    session.commit()
    assert status(session, job) == "queued"
    assert attempts.claim(session, job.id, owner="eager", lease=LEASE) is None
    assert queue_announcements.next_to_announce(session, grace=NOW, again=AGAIN) == []
    session.execute(text("update jobs set available_at = now()"))
    session.commit()
    take(job.id)
    expire(job.id)
    assert reap(session).ended == [(job.id, "failed")]
    error = jobs.get(session, job.tenant_id, job.id).error
    assert error is not None
    assert (error["code"], error["attempt"], error["retryable"]) == ("worker_lost", 2, True)


def test_reaper_finishes_a_cancellation_whose_worker_died(session, make, take, expire):
    job = make()
    take(job.id)
    jobs.cancel(session, job.tenant_id, job.id)
    expire(job.id)
    assert reap(session).ended == [(job.id, "cancelled")]


def test_job_that_never_started_expires_at_its_queue_deadline(session, make, take):
    job, started = make(queue_timeout_s=60), make(queue_timeout_s=60)
    attempts.release(session, started.id, take(started.id).fence, reason="worker_shutdown")
    session.execute(text("update jobs set queue_deadline_at = now() - interval '1 s'"))
    session.commit()
    assert attempts.claim(session, job.id, owner="late", lease=LEASE) is None
    assert reap(session).ended == [(job.id, "expired")]
    assert status(session, started) == "queued"


def test_run_deadline_counts_from_the_first_start_and_ends_the_job(session, make, take, expire):
    job = make(run_timeout_s=60)
    assert job.run_deadline_at is None
    first = take(job.id)
    assert first.run_deadline_at == first.started_at + timedelta(seconds=60)
    session.execute(text("update jobs set run_deadline_at = now() - interval '1 s'"))
    session.commit()
    assert attempts.heartbeat(session, job.id, first.fence, LEASE).past_deadline
    session.commit()
    assert reap(session).ended == [], "the worker is there to stop it"
    expire(job.id)
    assert reap(session).ended == [(job.id, "failed")]
    assert jobs.get(session, job.tenant_id, job.id).error["code"] == "deadline_exceeded"


def test_time_in_the_queue_is_no_time_of_the_run(session, make, take, expire):
    job = make(run_timeout_s=60)
    first = take(job.id)
    session.execute(text("update jobs set run_deadline_at = now() + interval '20 s'"))
    attempts.release(session, job.id, first.fence, reason="queue_paused")
    session.commit()
    waiting = jobs.get(session, job.tenant_id, job.id)
    assert waiting.run_deadline_at is None
    assert reap(session).ended == []
    second = take(job.id)
    assert second.run_deadline_at - second.lease_expires_at == waiting.run_left - LEASE
    assert 0 < waiting.run_left.total_seconds() <= 20
    expire(job.id)
    assert reap(session).requeued == [job.id]
    third = take(job.id)
    assert third.run_deadline_at - third.lease_expires_at <= waiting.run_left - LEASE, (
        "what it has run is spent"
    )


def test_a_hung_run_loses_its_job_some_time_after_the_deadline(session, make, take):
    job = make(run_timeout_s=60)
    fence = take(job.id).fence
    session.execute(text("update jobs set run_deadline_at = now() - interval '2 min'"))
    session.commit()
    assert reap(session).ended == [(job.id, "failed")]
    with pytest.raises(LostLease):
        attempts.heartbeat(session, job.id, fence, LEASE)


def test_two_reapers_at_once_end_a_job_once(database_url, session, make, take, expire):
    job = make(max_attempts=1)
    take(job.id)
    expire(job.id)
    with db.transaction(database_url) as first, db.transaction(database_url) as second:
        assert len(queue_recovery.reap(first, backoff=0).ended) == 1
        assert queue_recovery.reap(second, backoff=0).ended == []
    assert [e.type for e in events_of(session, job.tenant_id, job.id)] == ["queued", "started", "failed"]


def test_announcements_wait_for_the_bell_then_repeat(session, make):
    job = make()
    assert queue_announcements.next_to_announce(session, grace=timedelta(seconds=60), again=AGAIN) == []
    assert queue_announcements.next_to_announce(session, grace=NOW, again=AGAIN) == [job.id]
    assert queue_announcements.next_to_announce(session, grace=NOW, again=AGAIN) == []
    assert queue_announcements.next_to_announce(session, grace=NOW, again=NOW) == [job.id]


def test_two_dispatchers_at_once_announce_a_job_once(database_url, make):
    job = make()
    with db.transaction(database_url) as first, db.transaction(database_url) as second:
        assert queue_announcements.next_to_announce(first, grace=NOW, again=AGAIN) == [job.id]
        assert queue_announcements.next_to_announce(second, grace=NOW, again=AGAIN) == []


def test_one_leader_until_its_connection_ends(database_url, tenant):
    with Session(db.engine(database_url)) as first, Session(db.engine(database_url)) as second:
        assert db.try_advisory_lock(first, "loop")
        assert not db.try_advisory_lock(second, "loop")
        assert db.try_advisory_lock(second, "another")
        first.connection().invalidate()
        second.rollback()
        first.rollback()
        assert db.try_advisory_lock(second, "loop")
        second.connection().invalidate()
