"""The status of a job, from its creation to its end."""

from collections.abc import Iterable
from enum import StrEnum


class JobStatus(StrEnum):
    """What a job's status can be. Only store/jobs.py:change writes one, with the event of the change."""

    QUEUED = "queued"  # waits for a worker
    RUNNING = "running"  # an attempt has it
    CANCELLING = "cancelling"  # an attempt has it, and is to stop
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"  # did not start before its queue_timeout_s

    @classmethod
    def active(cls) -> tuple["JobStatus", ...]:
        """Those of unfinished jobs."""
        return cls.QUEUED, cls.RUNNING, cls.CANCELLING

    @classmethod
    def leased(cls) -> tuple["JobStatus", ...]:
        """Those of jobs that an attempt has."""
        return cls.RUNNING, cls.CANCELLING

    @classmethod
    def terminal(cls) -> tuple["JobStatus", ...]:
        """Those of finished jobs, which never change again."""
        return cls.SUCCEEDED, cls.FAILED, cls.CANCELLED, cls.EXPIRED


def in_sql(statuses: Iterable[JobStatus]) -> str:
    """Statuses as the right side of SQL's `in`: ('queued','running')."""
    return "(" + ",".join(f"'{status}'" for status in statuses) + ")"
