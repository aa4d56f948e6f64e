"""Rings the bell for every queued job that nobody claimed: a lost message, an emptied Redis, a job whose worker died."""

from datetime import timedelta

import redis
import structlog
from celery import Celery
from kombu.exceptions import OperationalError

from store import db
from store.queue import QUEUE, TASK, to_announce
from store.settings import Settings
from worker import metrics

log = structlog.get_logger("worker")
FULL = 500  # messages that wait already: more would only be duplicates


def turn(settings: Settings) -> None:
    """Announce what is due; the message holds the job id and nothing else."""
    again = timedelta(seconds=settings.redispatch_after_seconds)
    broker = settings.redis_url.get_secret_value()
    try:
        with redis.Redis.from_url(broker, socket_connect_timeout=1, socket_timeout=1) as client:
            if int(client.llen(QUEUE)) >= FULL:
                return
        with db.transaction(settings.database_url.get_secret_value()) as session:
            ids = to_announce(session, grace=timedelta(seconds=settings.dispatch_seconds), again=again)
            ring(broker, [str(job_id) for job_id in ids])
    except (redis.RedisError, OperationalError) as error:  # rolled back: announced again at the next turn
        metrics.unheard.inc()
        log.warning("broker_away", error=type(error).__name__)


def ring(broker: str, ids: list[str]) -> None:
    """One message for each job."""
    if not ids:
        return
    with Celery("dispatcher", broker=broker, set_as_current=False) as sender:
        sender.conf.update(
            task_serializer="json", task_ignore_result=True, broker_transport_options={"socket_connect_timeout": 1, "socket_timeout": 2}
        )
        with sender.connection_for_write() as connection:
            for job_id in ids:
                sender.send_task(TASK, args=[job_id], queue=QUEUE, retry=False, ignore_result=True, connection=connection)
    metrics.redispatches.inc(len(ids))
    log.info("announced", jobs=len(ids), job_ids=ids)
