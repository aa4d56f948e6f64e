"""Sends wake-up messages for queued jobs that nobody claimed: after a lost message, an emptied Redis, a dead
worker, or the end of a pause or a quota.
"""

from datetime import timedelta

import redis
import structlog
from celery import Celery
from kombu.exceptions import OperationalError
from sqlalchemy.exc import DBAPIError

from expunge.store import db, workers
from expunge.store.queue_announcements import BATCH, QUEUE, TASK, next_to_announce
from expunge.store.settings import Settings
from expunge.worker import metrics

log = structlog.get_logger("worker")
MAX_WAITING = 500  # messages: where that many wait, more would only be duplicates


def turn(settings: Settings) -> None:
    """Announce what is due."""
    metrics.redispatches.inc(announce(settings, BATCH, MAX_WAITING))


def announce_next(settings: Settings) -> None:
    """Wake a worker for the next job, unless a message waits already: called at an attempt's end, since a
    message sent while the tenant's quota was full woke nobody.
    """
    try:
        announce(settings, limit=1, max_waiting=1)
    except DBAPIError as error:
        log.warning("database_unreachable", error=type(error).__name__)


def announce(settings: Settings, limit: int, max_waiting: int) -> int:
    """Send messages for at most `limit` jobs unless `max_waiting` messages wait; returns the number of jobs.

    Where no message waits, no worker is about to look, and what was announced before is announced again at
    once. Where workers have different models, a message may wake one that lacks the job's: so each job gets
    as many messages as there are workers, which Redis wakes in turn.
    """
    try:
        with redis.Redis.from_url(
            settings.redis_client_url, socket_connect_timeout=1, socket_timeout=1
        ) as client:
            waiting = int(client.llen(QUEUE))
        if waiting >= max_waiting:
            return 0
        with db.transaction(settings.database_url.get_secret_value()) as session:
            per_job = workers.messages_per_job(session)
            ids = next_to_announce(
                session,
                grace=timedelta(seconds=settings.dispatch_seconds),
                again=timedelta(seconds=settings.redispatch_after_seconds if waiting else 0),
                limit=max(1, limit // per_job),
                max_running=settings.max_running_jobs,
            )
            send_messages(settings.broker_url, [str(job_id) for job_id in ids for _ in range(per_job)])
        return len(ids)
    except (redis.RedisError, OperationalError) as error:  # rolled back: announced again at the next turn
        metrics.failed_messages.inc()
        log.warning("broker_unreachable", error=type(error).__name__)
        return 0


def send_messages(broker_url: str, job_ids: list[str]) -> None:
    """Send one wake-up message for each id; it holds nothing else."""
    if not job_ids:
        return
    with Celery("dispatcher", broker=broker_url, set_as_current=False) as sender:
        sender.conf.update(
            task_serializer="json",
            task_ignore_result=True,
            broker_transport_options={"socket_connect_timeout": 1, "socket_timeout": 2},
        )
        with sender.connection_for_write() as connection:
            for job_id in job_ids:
                sender.send_task(
                    TASK, args=[job_id], queue=QUEUE, retry=False, ignore_result=True, connection=connection
                )
    log.info("jobs_announced", jobs=len(job_ids), job_ids=job_ids)
