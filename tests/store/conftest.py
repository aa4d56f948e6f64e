"""Helpers that make and take jobs."""

import uuid
from collections.abc import Callable
from datetime import timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from expunge.store import attempts, jobs
from expunge.store.models import Job, Tenant

LEASE = timedelta(seconds=60)
Make = Callable[..., Job]


@pytest.fixture
def make(session: Session, tenant: Tenant) -> Make:
    """make(**create_job's arguments): a committed, queued job."""

    def made(**arguments: object) -> Job:
        job = jobs.create_job(session, tenant.id, "erase", {"concepts": ["church"]}, **arguments)  # type: ignore[arg-type]
        session.commit()
        return job

    return made


@pytest.fixture
def take(session: Session) -> Callable[[uuid.UUID], Job]:
    """take(job_id): a committed claim, which must succeed."""

    def taken(job_id: uuid.UUID) -> Job:
        job = attempts.claim(session, job_id, owner="test", lease=LEASE)
        session.commit()
        assert job is not None
        return job

    return taken


@pytest.fixture
def expire(session: Session) -> Callable[[uuid.UUID], None]:
    """expire(job_id): the lease ran out a second ago."""

    def expired(job_id: uuid.UUID) -> None:
        session.execute(
            text("update jobs set lease_expires_at = now() - interval '1 s' where id = :id"), {"id": job_id}
        )
        session.commit()

    return expired
