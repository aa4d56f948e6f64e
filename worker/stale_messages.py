"""Drops wake-up messages that nobody needs any more: a worker that died had taken them, and Redis would keep
them until their visibility timeout ends.
"""

import base64
import json
import uuid

import redis
import structlog

from expunge.store import db, jobs
from expunge.store.queue_announcements import TASK
from expunge.store.settings import Settings

log = structlog.get_logger("worker")
# Kombu's names: messages that a worker took and has not acknowledged, and when it took them
TAKEN, TAKEN_AT = ("unacked", "unacked_index")


def turn(settings: Settings) -> None:
    """Drop what was taken for jobs that have ended.

    A job that this database does not know is another deployment's, on the same Redis. A worker that is still
    alive goes on with such a message, and its acknowledgement has no effect.
    """
    try:
        with redis.Redis.from_url(
            settings.redis_client_url, socket_connect_timeout=1, socket_timeout=5
        ) as client:
            taken = {tag: job_id_of(message) for tag, message in client.hscan_iter(TAKEN)}
            with db.transaction(settings.database_url.get_secret_value()) as session:
                ended = jobs.find_ended(session, {job_id for job_id in taken.values() if job_id is not None})
            stale = [tag for tag, job_id in taken.items() if job_id in ended]
            if stale:
                client.pipeline().zrem(TAKEN_AT, *stale).hdel(TAKEN, *stale).execute()
                log.info("stale_messages_dropped", messages=len(stale))
    except redis.RedisError as error:
        log.warning("broker_unreachable", error=type(error).__name__)


def job_id_of(message: bytes) -> uuid.UUID | None:
    """The job of one of our messages, as kombu stores it; None for anything else."""
    try:
        raw, *_ = json.loads(message)
        if raw["headers"]["task"] != TASK:
            return None
        arguments, *_ = json.loads(base64.b64decode(raw["body"]))
        return uuid.UUID(*arguments)
    except (ValueError, TypeError, KeyError):
        return None
