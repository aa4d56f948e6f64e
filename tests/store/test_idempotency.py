"""Idempotency-Key in the database; tests/api/test_jobs.py has the requests."""

import uuid

import pytest
from sqlalchemy import text

from expunge.store import db, idempotency, jobs
from expunge.store.errors import KeyInFlight, KeyReused

ANSWER = {"status": 202, "headers": {}, "body": {"id": "1"}}


def test_nothing_is_kept_of_a_request_that_is_rolled_back(session, tenant):
    assert idempotency.begin(session, tenant.id, "k", "h") is None
    job = jobs.create_job(session, tenant.id, "erase", {})
    idempotency.record(session, tenant.id, "k", response=ANSWER, job_id=job.id)
    session.rollback()
    counts = session.execute(
        text(
            "select (select count(*) from jobs), (select count(*) from events), (select count(*) from"
            " idempotency)"
        )
    )
    assert counts.one() == (0, 0, 0)


def test_same_key_and_request_give_the_recorded_answer(session, tenant):
    assert idempotency.begin(session, tenant.id, "k", "h") is None
    idempotency.record(session, tenant.id, "k", response=ANSWER)
    session.commit()
    assert idempotency.begin(session, tenant.id, "k", "h") == ANSWER
    session.commit()
    assert idempotency.begin(session, tenant.id, "k", "h") == ANSWER, "as often as it is asked"


def test_same_key_with_another_request_is_refused(session, tenant):
    idempotency.begin(session, tenant.id, "k", "h")
    session.commit()
    with pytest.raises(KeyReused):
        idempotency.begin(session, tenant.id, "k", "other")


def test_key_whose_first_request_is_still_at_work_is_told_so_at_once(session, database_url, tenant):
    idempotency.begin(session, tenant.id, "k", "h")
    with db.transaction(database_url) as second, pytest.raises(KeyInFlight):
        idempotency.begin(second, tenant.id, "k", "h")
    session.commit()


def test_an_expired_key_is_new_again(session, tenant):
    idempotency.begin(session, tenant.id, "k", "h")
    idempotency.record(session, tenant.id, "k", response=ANSWER)
    session.execute(text("update idempotency set expires_at = now() - interval '1 s'"))
    session.commit()
    assert idempotency.begin(session, tenant.id, "k", "other") is None


def test_expired_keys_are_swept(session, tenant):
    for key in ("old", "new"):
        idempotency.begin(session, tenant.id, key, "h")
    session.execute(text("update idempotency set expires_at = now() - interval '1 s' where key = 'old'"))
    session.commit()
    assert (idempotency.delete_expired(session), idempotency.delete_expired(session)) == (1, 0)
    assert session.scalars(text("select key from idempotency")).all() == ["new"]


def test_keys_of_two_tenants_do_not_meet(session, tenant, other_tenant):
    assert idempotency.begin(session, tenant.id, "k", "h") is None
    assert idempotency.begin(session, other_tenant.id, "k", "x") is None


def test_an_answer_goes_with_the_job_that_it_is_about(session, tenant):
    idempotency.begin(session, tenant.id, "k", "h")
    job = jobs.create_job(session, tenant.id, "erase", {})
    idempotency.record(session, tenant.id, "k", response=ANSWER, job_id=job.id)
    session.execute(text("delete from jobs where id = :id"), {"id": uuid.UUID(str(job.id))})
    assert session.scalar(text("select count(*) from idempotency")) == 0
