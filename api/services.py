"""What the routes share: settings, database, artifact store, the listener, the bell and the counters."""

import uuid
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property

from sqlalchemy.orm import Session

from api.bell import Bell
from api.hub import Hub
from api.integrity import Checked
from api.known import Known
from api.limiter import Limiter
from api.metrics import Counted, Metrics
from store import artifacts, db, deployment, jobs, pauses, workers
from store.blobs import Blobs
from store.settings import Settings


@dataclass
class Services:
    """One per app; nothing in it connects before it is used."""

    settings: Settings
    hub: Hub
    bell: Bell
    metrics: Metrics
    limiter: Limiter
    checked: Checked = field(default_factory=Checked)
    known: Known = field(default_factory=Known)

    @cached_property
    def blobs(self) -> Blobs:
        """Known to be this database's. ForeignStore."""
        return deployment.known(self.settings)

    def transaction(self) -> AbstractContextManager[Session]:
        """A session that commits at its end."""
        return db.transaction(self.settings.database_url.get_secret_value())

    def reading(self) -> AbstractContextManager[Session]:
        """A session for one SELECT."""
        return db.reading(self.settings.database_url.get_secret_value())

    def ring(self, job_id: uuid.UUID) -> None:
        """Wake a worker; to be called after the commit."""
        if not self.bell.ring(job_id):
            self.metrics.unheard.inc()

    def count(self) -> Counted:
        """What the database says at this moment."""
        with self.transaction() as session:
            return Counted(
                jobs=jobs.count_by_status(session),
                oldest=jobs.queue_age(session),
                corrupt=artifacts.corrupt_count(session),
                paused=pauses.count(session),
                workers=workers.count_by_state(session),
                blocked=len(workers.blocked(session)),
            )


def build(settings: Settings) -> Services:
    dsn = db.psycopg_url(settings.database_url.get_secret_value())
    metrics = Metrics()
    services = Services(settings, Hub(dsn), Bell(settings.redis_url.get_secret_value()), metrics, Limiter(settings, metrics))
    services.metrics.watch(services.count)
    return services
