"""The typed Python client of Expunge: `from client import Expunge`."""

from client.api import Expunge
from client.errors import ApiError, ConnectionFailed, ExpungeError, IntegrityError, JobFailed, WaitTimeout
from client.types import Artifact, Event, FieldError, Job, JobError, Model, Page, Problem

__all__ = [
    "ApiError",
    "Artifact",
    "ConnectionFailed",
    "Event",
    "Expunge",
    "ExpungeError",
    "FieldError",
    "IntegrityError",
    "Job",
    "JobError",
    "JobFailed",
    "Model",
    "Page",
    "Problem",
    "WaitTimeout",
]
