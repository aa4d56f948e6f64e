"""Jobs as clients see them, from the store's rows."""

import uuid
from collections.abc import Sequence

from sqlalchemy.orm import Session

from expunge.api.auth import key_still_valid, unknown_key
from expunge.api.caller import Caller
from expunge.api.schemas.artifacts import JobArtifact
from expunge.api.schemas.jobs import Job
from expunge.api.services import Services
from expunge.store import artifacts, jobs
from expunge.store.models import Artifact as ArtifactRow, Job as JobRow


def serialize_job(row: JobRow, files: Sequence[ArtifactRow]) -> Job:
    """A job with these artifacts."""
    job = Job.model_validate({name: getattr(row, name) for name in Job.model_fields if name != "artifacts"})
    return job.model_copy(update={"artifacts": [JobArtifact.model_validate(file) for file in files]})


def job_with_artifacts(session: Session, tenant_id: uuid.UUID, row: JobRow) -> Job:
    """A job with its artifacts, which are read in the same session."""
    return serialize_job(row, artifacts.list_of_job(session, tenant_id, row.id))


def read_job(services: Services, caller: Caller, job_id: uuid.UUID, *, check_key: bool = False) -> Job:
    """A job as it is now. `check_key`: check that the caller's key is still valid, after a wait.

    Raises: NotFound; Problem `unauthorized` where the key has ended meanwhile.
    """
    with services.reading() as session:
        if check_key and not key_still_valid(session, caller, "jobs:write"):
            raise unknown_key()
        return Job.model_validate(jobs.get_with_artifacts(session, caller.tenant_id, job_id))
