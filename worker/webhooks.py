"""Delivers webhooks: signed as Standard Webhooks has it, tried again on the schedule until the receiver
answers 2xx.
"""

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta

import structlog
from standardwebhooks import Webhook as Signer

from expunge.store import db, encryption, webhook_deliveries
from expunge.store.errors import Unreadable
from expunge.store.settings import Settings
from expunge.store.webhook_deliveries import DueDelivery
from expunge.store.webhook_targets import Refused, target
from expunge.worker.safe_http import Undelivered, post

log = structlog.get_logger("worker")
THREADS = 16
LEASE = 4  # times what an attempt may take: whoever held it is dead by then


class Deliverer:
    """Hands what is due to threads, so that a slow receiver holds up none but itself.

    What a crash cuts off is due again when its lease ends.
    """

    def __init__(self) -> None:
        self.pool = ThreadPoolExecutor(THREADS, thread_name_prefix="webhook")
        self.flying: set[Future[None]] = set()

    def turn(self, settings: Settings) -> None:
        landed = {attempt for attempt in self.flying if attempt.done()}
        self.flying -= landed
        # Not settled: made again when its lease ends
        for error in filter(None, (attempt.exception() for attempt in landed)):
            log.warning("webhook_unsettled", error=type(error).__name__)
        lease = timedelta(seconds=LEASE * settings.webhook_timeout_seconds)
        with db.transaction(settings.database_url.get_secret_value()) as session:
            due = webhook_deliveries.claim(session, limit=THREADS - len(self.flying), lease=lease)
        self.flying |= {self.pool.submit(deliver, settings, each) for each in due}


def signed(due: DueDelivery, secret: str, older: Sequence[str] = ()) -> dict[str, str]:
    """The headers of Standard Webhooks; two signatures while a secret is being rotated. Unreadable."""
    message = webhook_deliveries.message_id(due.id)
    secrets = [
        encryption.unseal(sealed, secret, older)
        for sealed in (due.sealed, due.previous)
        if sealed is not None
    ]
    return {
        "webhook-id": message,
        "webhook-timestamp": str(int(due.at.timestamp())),
        "webhook-signature": " ".join(Signer(each).sign(message, due.at, due.body) for each in secrets),
    }


def attempt(settings: Settings, due: DueDelivery) -> tuple[int | None, str | None]:
    """(HTTP status, error): the error is None when the receiver took it."""
    fixed = {"Content-Type": "application/json", "User-Agent": "Expunge-Webhooks", "Accept": "*/*"}
    try:
        headers = {**fixed, **signed(due, settings.secret.get_secret_value(), settings.older_secrets)}
        where = target(due.url, settings)
        status = post(
            where,
            headers,
            due.body.encode(),
            seconds=settings.webhook_timeout_seconds,
            ca_file=settings.webhook_ca_file,
        )
    except Refused:
        return None, "host_refused"
    except (Undelivered, Unreadable) as error:
        return None, error.code
    if 200 <= status < 300:
        return status, None
    return status, "redirected" if 300 <= status < 400 else "http_status"


def deliver(settings: Settings, due: DueDelivery) -> None:
    """One attempt and its entry in the log; neither URL nor answer is written to our own."""
    began = time.monotonic()
    try:
        status, error = attempt(settings, due)
    except Exception:
        log.exception("webhook_failed", delivery_id=str(due.id))
        status, error = None, "internal_error"
    seconds = time.monotonic() - began
    with db.transaction(settings.database_url.get_secret_value()) as session:
        now = webhook_deliveries.settle(
            session, due, status=status, error=error, seconds=seconds, retries=settings.webhook_retry_seconds
        )
    log.info(
        "webhook_attempt",
        delivery_id=str(due.id),
        status=status,
        error=error,
        delivery=now,
        seconds=round(seconds, 3),
    )
