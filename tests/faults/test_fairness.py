"""F30 and the pauses of the queue, with real workers and loops."""

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from datetime import datetime

import pytest
from sqlalchemy import text

from expunge.store import db, jobs, keys, queue_pauses
from tests.support.cluster import Fleet, until

FLOOD = 10_000


class Other:
    """A second tenant on the same fleet."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        with db.transaction(fleet.url) as session:
            self.id = keys.ensure_tenant(session, "B").id

    def post(self, **spec: object) -> uuid.UUID:
        whole = {"steps": 3, "every": 3, "trace": str(self.fleet.trace), "go": str(self.fleet.go), **spec}
        with db.transaction(self.fleet.url) as session:
            job_id = jobs.create_job(session, self.id, "erase", whole).id
        self.fleet.accepted.append(job_id)
        return job_id

    def ended(self, job_id: uuid.UUID) -> bool:
        return self.fleet.job(job_id).status == "succeeded"


@pytest.fixture
def crowd(settings, tmp_path, tenant) -> Iterator[Fleet]:
    """Workers and loops whose jobs are too many for the ledger, as most never run."""
    made = Fleet(settings, tmp_path, tenant.id)
    yield made
    made.end()


def flood(fleet: Fleet, n: int) -> None:
    """Queued jobs of the fleet's tenant, each with its first event."""
    spec = f'{{"steps": 3, "every": 3, "pause_ms": 20, "trace": "{fleet.trace}", "go": "{fleet.go}"}}'
    with db.transaction(fleet.url) as session:
        session.execute(
            text(
                "with made as (insert into jobs (id, tenant_id, kind, spec, available_at) select"
                " gen_random_uuid(), :tenant, 'erase', cast(:spec as jsonb), now() - interval '1 min' + i *"
                " interval '1 ms' from generate_series(1, :n) i returning id) insert into events (job_id,"
                " seq, type, data) select id, 1, 'queued', '{}' from made"
            ),
            {"tenant": fleet.tenant_id, "spec": spec, "n": n},
        )


def clock(fleet: Fleet) -> datetime:
    """The database's; what was committed before is seen by whoever starts after it."""
    with db.transaction(fleet.url) as session:
        return session.scalar(text("select clock_timestamp()"))


def started_between(fleet: Fleet, came: datetime, other: uuid.UUID) -> int:
    """Jobs of the fleet's own tenant that were started after the other's job had come and before it was
    started.
    """
    query = """
        select count(*) from events join jobs on jobs.id = events.job_id
        where jobs.tenant_id = :mine and events.type = 'started' and events.created_at > :came
        and events.created_at < (select created_at from events where job_id = :other and type = 'started')
    """
    with db.transaction(fleet.url) as session:
        return session.scalar(text(query), {"other": other, "came": came, "mine": fleet.tenant_id})


def started(fleet: Fleet) -> int:
    with db.transaction(fleet.url) as session:
        return session.scalar(
            text("select count(*) from jobs where started_at is not null and tenant_id = :id"),
            {"id": fleet.tenant_id},
        )


@pytest.mark.parametrize("workers", [1, 2])
def test_f30_a_tenant_with_ten_thousand_jobs_delays_another_s_single_job_by_no_more_than_one_slot(
    crowd, workers
):
    """F30: A's jobs fill the queue and the broker; each of B's three jobs, one after the other, is the next
    to start or the one after.
    """
    flood(crowd, FLOOD)
    crowd.loops()
    for _ in range(workers):
        crowd.worker()
    until(lambda: started(crowd) > 2 * workers)
    other = Other(crowd)
    for _ in range(3):
        single = other.post()
        came = clock(crowd)
        until(lambda job_id=single: other.ended(job_id))
        assert started_between(crowd, came, single) <= workers
    assert started(crowd) < FLOOD // 10, "A was nowhere near its end"


def test_a_tenant_at_its_quota_leaves_the_other_workers_to_others(fleet, finished):
    """Two workers, one job at once: the second job waits though a worker is free, and starts as soon as the
    first ends.
    """
    fleet.loops()
    for _ in range(2):
        fleet.worker(EXPUNGE_MAX_RUNNING_JOBS="1")
    first = fleet.post(hold=4)
    fleet.until_step(first, 4)  # while the dispatcher marks a job, its tenant's next may start before it
    second = fleet.post()
    other = Other(fleet)
    theirs = other.post()
    until(lambda: other.ended(theirs))
    assert fleet.job(second).status == "queued"
    fleet.go.touch()
    finished(first, 12)
    finished(second, 12)
    assert fleet.job(first).finished_at <= fleet.job(second).started_at


def pause(fleet: Fleet, tenant_id: uuid.UUID | None, **more: object) -> None:
    with db.transaction(fleet.url) as session:
        queue_pauses.pause(session, tenant_id, **more)


def resume(fleet: Fleet, tenant_id: uuid.UUID | None) -> None:
    with db.transaction(fleet.url) as session:
        queue_pauses.resume(session, tenant_id)


def no_job_due(fleet: Fleet) -> int:
    """How often a message woke a worker for nothing."""
    return sum(log.read_text().count("no_job_due") for log in fleet.folder.glob("process-*.log"))


def test_while_a_queue_is_paused_its_running_job_finishes_and_nothing_starts_but_others(fleet, finished):
    from expunge.worker.dispatcher import send_messages

    fleet.loops(), fleet.worker()
    running = fleet.post(hold=4)
    fleet.until_step(running, 4)
    pause(fleet, fleet.tenant_id)
    waiting, other = fleet.post(), Other(fleet)
    fleet.go.touch()
    finished(running, 12)
    send_messages(fleet.settings.redis_url.get_secret_value(), [str(waiting)])
    until(lambda: no_job_due(fleet) > 0)
    theirs = other.post()
    until(lambda: other.ended(theirs))
    assert (fleet.job(waiting).status, fleet.job(waiting).attempt) == ("queued", 0)
    resume(fleet, fleet.tenant_id)
    finished(waiting, 12)


def test_a_pause_that_asks_for_running_jobs_hands_them_over_at_a_checkpoint_and_they_go_on_from_it(
    fleet, finished
):
    fleet.loops(), fleet.worker()
    job_id = fleet.post(hold=8, run_timeout_s=3600)
    fleet.until_step(job_id, 8)
    pause(fleet, None, hand_over=True)
    until(lambda: "stop_requested" in (fleet.folder / "process-1.log").read_text())
    time.sleep(2 * fleet.settings.cancel_seconds)  # the next checkpoint may be far: nobody is killed for that
    fleet.go.touch()
    until(lambda: "requeued" in [e.type for e in fleet.events(job_id)])
    held = fleet.job(job_id)
    assert (held.status, held.attempt, held.fence) == ("queued", 0, 1)
    assert [e.data["reason"] for e in fleet.events(job_id) if e.type == "requeued"] == ["queue_paused"]
    assert held.run_deadline_at is None, "its clock stands still"
    assert 0 < held.run_left.total_seconds() < 3600
    resume(fleet, None)
    finished(job_id, 12)
    assert sorted(step for _, step in fleet.steps()) == list(range(12)), "no step was run twice"
    assert fleet.job(job_id).attempt == 1


def test_a_queue_deadline_passes_during_a_pause(fleet):
    fleet.loops(), fleet.worker()
    pause(fleet, None)
    assert fleet.until_status(fleet.post(queue_timeout_s=1), "expired").attempt == 0


def test_the_operator_s_command_pauses_resumes_and_says_how_it_stands(crowd):
    def command(*arguments: str) -> str:
        argv = [sys.executable, "-m", "expunge.store.queue_pauses", *arguments]
        return subprocess.run(
            argv, env={**os.environ, **crowd.environment()}, capture_output=True, text=True, check=True
        ).stdout

    assert command("show") == "running\n"
    assert command("pause", "--hand-over", "--reason", "new disks").endswith(", handing over\n")
    with db.transaction(crowd.url) as session:
        assert queue_pauses.get_pause(session, None).reason == "new disks"
    assert command("show").startswith("paused since ")
    assert command("resume") == "running\n"
