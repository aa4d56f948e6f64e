"""What is asked for every request, claim and turn of the dispatcher finds its rows by an index, however long
the queue is.
"""

import re
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from sqlalchemy import event, func, select, text
from sqlalchemy.orm import Session

from expunge.store import attempts, jobs, queue_announcements, queue_claims, workers
from expunge.store.models import Job, Tenant

ROWS = 5000
FILL = """
insert into jobs (id, tenant_id, kind, spec, status, finished_at, labels, created_at, available_at)
select gen_random_uuid(), :tenant, 'erase', cast(:spec as jsonb), cast(:status as text), case
    when cast(:status as text) = 'succeeded' then now() end, jsonb_build_object('n', n::text),
       now() - n * interval '1 second', now() - n * interval '1 second' from generate_series(1, :n) n
"""


@pytest.fixture
def crowd(session: Session, tenant: Tenant, other_tenant: Tenant) -> Tenant:
    """A tenant with some jobs beside another with many, half of them queued, most of those for a model that
    no worker has.
    """
    for whose, status, spec, n in (
        (tenant, "queued", "{}", 100),
        (tenant, "succeeded", "{}", 100),
        (other_tenant, "queued", '{"model": "absent"}', ROWS),
        (other_tenant, "queued", '{"model": "another"}', 100),
        (other_tenant, "succeeded", "{}", ROWS),
    ):
        session.execute(text(FILL), {"tenant": whose.id, "status": status, "spec": spec, "n": n})
    workers.record_heartbeat(session, MINE, timedelta(minutes=1))
    session.commit()
    session.execute(text("analyze jobs"))
    session.commit()
    return tenant


@contextmanager
def explained(session: Session) -> Iterator[list[str]]:
    """The plans of all that is executed on the session's connection meanwhile."""
    plans: list[str] = []

    def explain(_: Any, cursor: Any, statement: str, parameters: Any, *__: Any) -> None:
        rows = cursor.connection.execute(f"explain {statement}", parameters).fetchall()
        plans.append("\n".join(row[0] for row in rows))

    connection = session.connection()
    event.listen(connection, "before_cursor_execute", explain)
    yield plans
    event.remove(connection, "before_cursor_execute", explain)


def one(session: Session, tenant: Tenant) -> Job:
    return session.scalars(
        select(Job).where(Job.tenant_id == tenant.id, Job.status == "queued").limit(1)
    ).one()


MINE = workers.WorkerReport(uuid.uuid4(), "here", 1, "1", state="ready", models=["emoji", "another"])
ACTS: dict[str, Callable[[Session, Tenant], object]] = {
    "look": lambda session, tenant: jobs.get_with_artifacts(session, tenant.id, one(session, tenant).id),
    "list": lambda session, tenant: jobs.list_jobs(session, tenant.id, limit=51),
    "list by label": lambda session, tenant: jobs.list_jobs(
        session, tenant.id, labels=[[{"n": "7"}]], limit=51
    ),
    "claim": lambda session, tenant: attempts.claim(
        session, one(session, tenant).id, owner="test", lease=timedelta(minutes=1)
    ),
    "claim by a worker": lambda session, _: queue_claims.claim_next(
        session, owner="test", lease=timedelta(minutes=1), worker=MINE.id
    ),
    "dispatch": lambda session, _: queue_announcements.next_to_announce(
        session, grace=timedelta(seconds=0), again=timedelta(seconds=30)
    ),
}


@pytest.mark.parametrize("act", ACTS)
def test_no_request_claim_or_turn_reads_the_whole_table_of_jobs(session, crowd, act):
    one(session, crowd)
    with explained(session) as plans:
        assert ACTS[act](session, crowd)
    asked = [plan for plan in plans if "jobs" in plan]
    assert asked, "nothing was asked of the table"
    for plan in asked:
        assert "Seq Scan on jobs" not in plan, plan


def test_a_worker_finds_its_jobs_behind_any_number_that_it_has_no_model_for(session, crowd, other_tenant):
    """The index is asked for the worker's own models: the rows that it lacks the model for are not read."""
    plans: list[str] = []

    def analyse(_: Any, cursor: Any, statement: str, parameters: Any, *__: Any) -> None:
        if "jobs" in statement and statement.lstrip().startswith(("select", "with")):
            rows = cursor.connection.execute(
                f"explain (analyze, timing off) {statement}", parameters
            ).fetchall()
            plans.append("\n".join(row[0] for row in rows))

    event.listen(session.connection(), "before_cursor_execute", analyse)
    claimed = [
        queue_claims.claim_next(session, owner="test", lease=timedelta(minutes=1), worker=MINE.id)
        for _ in range(2)
    ]
    assert {job.tenant_id: job.spec for job in claimed} == {
        crowd.id: {},
        other_tenant.id: {"model": "another"},
    }
    read = [
        int(n)
        for plan in plans
        for n in re.findall(r"(?:on jobs|using \w+ on jobs).*?actual rows=(\d+)", plan)
    ]
    passed_over = [int(n) for plan in plans for n in re.findall(r"Rows Removed by Filter: (\d+)", plan)]
    assert read
    assert max([*read, *passed_over]) < ROWS / 10


def test_the_metrics_count_jobs_in_indices(session, crowd, postgres_url):
    with psycopg.connect(postgres_url, autocommit=True) as owner:
        owner.execute("vacuum analyze jobs")
    with explained(session) as plans:
        found = jobs.count_by_status(session)
    assert {status: n for status, n in found.items() if n} == dict(
        session.execute(select(Job.status, func.count()).group_by(Job.status)).all()
    )
    (plan,) = plans
    assert "Seq Scan on jobs" not in plan, plan
    assert "Index Only Scan using ix_jobs_ended" in plan, plan


def test_a_scan_of_the_whole_table_would_be_noticed(session, crowd):
    with explained(session) as plans:
        session.execute(text("select count(*) from jobs where kind = 'erase'"))
    assert "Seq Scan on jobs" in plans[0]
