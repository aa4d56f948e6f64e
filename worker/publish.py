"""The end of a successful run: upload the bytes, read and hash them again, then make them the job's artifacts
in one transaction. What the verdict withholds is kept too, so that it can be judged again, but marked: nobody
may download it.
"""

import time
import uuid
from typing import TYPE_CHECKING, Any

import structlog
from sqlalchemy.exc import SQLAlchemyError

from expunge.store import attempts
from expunge.store.attempts import NewArtifact
from expunge.store.blobs import Blobs, output_key
from expunge.store.models import WITHHELD
from expunge.worker import metrics
from expunge.worker.lease import Lease

if TYPE_CHECKING:
    from expunge.core.outcome import Outcome

log = structlog.get_logger("worker")


def publish(lease: Lease, blobs: Blobs, outcome: "Outcome", progress: dict[str, Any] | None) -> None:
    """Upload and commit; what was uploaded without a commit is deleted, here or by the sweeper.

    Raises: LostLease, CancelRequested.
    """
    job, started = lease.job, time.monotonic()
    stored = list[NewArtifact]()
    try:
        for output in outcome.outputs:
            key = output_key(job.tenant_id, job.id, job.attempt, job.fence)
            size, sha256 = blobs.put(key, output.path, name=output.name)
            stored.append(
                NewArtifact(
                    uuid.uuid4(),
                    output.name,
                    output.media_type,
                    size,
                    sha256,
                    key,
                    output.kind,
                    {WITHHELD: True} if output.withheld else {},
                )
            )
            lease.note_alive()
        stale = lease.write(
            lambda session: attempts.publish(
                session, job.id, job.fence, stored, verdict=outcome.verdict, progress=progress
            )
        )
    except SQLAlchemyError:
        raise  # the commit may have happened: the bytes stay until the sweep knows
    except Exception:
        blobs.delete([artifact.key for artifact in stored])
        raise
    metrics.publish_seconds.observe(time.monotonic() - started)
    blobs.delete(stale)
