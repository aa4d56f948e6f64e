"""Ring the workers' bell after a commit: a Celery message that holds nothing but the job id.

Best effort, within a second: a lost message only costs the dispatcher's next round, so no failure reaches the
client.
"""

import uuid

import structlog
from celery import Celery

from expunge.store.queue_announcements import QUEUE, TASK

log = structlog.get_logger("api")
BUDGET = 0.5  # seconds to connect, and again to write
SOCKET = {
    "socket_connect_timeout": BUDGET,
    "socket_timeout": BUDGET,
    "retry_on_timeout": False,
    "max_retries": 0,
}


class Bell:
    """One Celery producer for the process; `ring` never raises."""

    def __init__(self, broker_url: str) -> None:
        self.celery = Celery("api", broker=broker_url, set_as_current=False)
        self.celery.conf.update(
            task_serializer="json",
            task_ignore_result=True,
            task_publish_retry=False,
            broker_connection_retry=False,
            broker_connection_timeout=BUDGET,
            broker_transport_options=SOCKET,
            worker_hijack_root_logger=False,
        )

    def ring(self, job_id: uuid.UUID) -> bool:
        """Whether the message reached the broker."""
        try:
            self.celery.send_task(TASK, args=[str(job_id)], queue=QUEUE, retry=False, ignore_result=True)
        except Exception as error:
            log.warning("bell_unheard", job_id=str(job_id), error=type(error).__name__)
            return False
        return True
