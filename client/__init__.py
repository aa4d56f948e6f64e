"""The typed Python client of Expunge: `from client import Expunge`."""

from client.api import Expunge
from client.errors import (
    ApiError,
    BadFile,
    BadId,
    BadSetting,
    ConnectionFailed,
    ExpungeError,
    IntegrityError,
    JobFailed,
    NoRecoveryKey,
    WaitTimeout,
)
from client.types import Artifact, Event, FieldError, Impact, Job, JobError, KeyRead, Model, Page, Pause, Problem, Queue

__all__ = [
    "ApiError",
    "Artifact",
    "BadFile",
    "BadId",
    "BadSetting",
    "ConnectionFailed",
    "Event",
    "Expunge",
    "ExpungeError",
    "FieldError",
    "Impact",
    "IntegrityError",
    "Job",
    "JobError",
    "JobFailed",
    "KeyRead",
    "Model",
    "NoRecoveryKey",
    "Page",
    "Pause",
    "Problem",
    "Queue",
    "WaitTimeout",
]
