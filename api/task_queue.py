"""Announce a job to the workers after the commit: a Celery message that holds only the job id.

Best effort, within a second. When a message is lost, the dispatcher announces the job again in its next
round, so no failure reaches the client.
"""

import uuid

import structlog
from celery import Celery

from expunge.store.queue_announcements import QUEUE, TASK

log = structlog.get_logger("api")
TIMEOUT = 0.5  # seconds to connect, and again to write
TRANSPORT_OPTIONS = {
    "socket_connect_timeout": TIMEOUT,
    "socket_timeout": TIMEOUT,
    "retry_on_timeout": False,
    "max_retries": 0,
}


class TaskQueue:
    """The process's Celery producer."""

    def __init__(self, broker_url: str) -> None:
        self.celery = Celery("api", broker=broker_url, set_as_current=False)
        self.celery.conf.update(
            task_serializer="json",
            task_ignore_result=True,
            task_publish_retry=False,
            broker_connection_retry=False,
            broker_connection_timeout=TIMEOUT,
            broker_transport_options=TRANSPORT_OPTIONS,
            worker_hijack_root_logger=False,
        )

    def announce(self, job_id: uuid.UUID) -> bool:
        """Whether the message reached the broker; never raises."""
        try:
            self.celery.send_task(TASK, args=[str(job_id)], queue=QUEUE, retry=False, ignore_result=True)
        except Exception as error:
            log.warning("broker_unreachable", job_id=str(job_id), error=type(error).__name__)
            return False
        return True
