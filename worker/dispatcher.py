"""Rings the bell for queued jobs that nobody claimed: a lost message, an emptied Redis, a job whose worker
died, a pause or a quota that ended.
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
FULL = 500  # messages that wait already: more would only be duplicates


def turn(settings: Settings) -> None:
    """Announce what is due."""
    metrics.redispatches.inc(announce(settings, BATCH, FULL))


def ring_on(settings: Settings) -> None:
    """A worker that has ended an attempt wakes whoever is next, where no message waits for that: a bell rung
    while a tenant's quota was full woke nobody.
    """
    try:
        announce(settings, 1, 1)
    except DBAPIError as error:
        log.warning("database_away", error=type(error).__name__)


def announce(settings: Settings, limit: int, full: int) -> int:
    """Ring for at most `limit` jobs unless `full` messages wait, and say for how many; a message holds a job
    id and nothing else.

    Where none waits, no worker is about to look: then what was announced before is announced again at once.
    Where workers have different models a message may wake one that has not the job's: so a job gets as many
    as there are workers, which Redis wakes in turn.
    """
    try:
        with redis.Redis.from_url(
            settings.redis_client_url, socket_connect_timeout=1, socket_timeout=1
        ) as client:
            waiting = int(client.llen(QUEUE))
        if waiting >= full:
            return 0
        grace, again = (
            timedelta(seconds=settings.dispatch_seconds),
            timedelta(seconds=settings.redispatch_after_seconds if waiting else 0),
        )
        with db.transaction(settings.database_url.get_secret_value()) as session:
            each = workers.messages_per_job(session)
            ids = next_to_announce(
                session,
                grace=grace,
                again=again,
                limit=max(1, limit // each),
                max_running=settings.max_running_jobs,
            )
            ring(settings.broker_url, [str(job_id) for job_id in ids for _ in range(each)])
        return len(ids)
    except (redis.RedisError, OperationalError) as error:  # rolled back: announced again at the next turn
        metrics.unheard.inc()
        log.warning("broker_away", error=type(error).__name__)
        return 0


def ring(broker: str, ids: list[str]) -> None:
    """One message for each job."""
    if not ids:
        return
    with Celery("dispatcher", broker=broker, set_as_current=False) as sender:
        sender.conf.update(
            task_serializer="json",
            task_ignore_result=True,
            broker_transport_options={"socket_connect_timeout": 1, "socket_timeout": 2},
        )
        with sender.connection_for_write() as connection:
            for job_id in ids:
                sender.send_task(
                    TASK, args=[job_id], queue=QUEUE, retry=False, ignore_result=True, connection=connection
                )
    log.info("announced", jobs=len(ids), job_ids=ids)
