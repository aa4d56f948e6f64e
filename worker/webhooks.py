"""Delivers webhooks, signed as Standard Webhooks specifies; retries on the schedule until the receiver
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
from expunge.store.webhook_targets import Refused, parse_target
from expunge.worker.safe_http import Undelivered, post

log = structlog.get_logger("worker")
THREADS = 16
LEASE_FACTOR = 4  # times the longest attempt: whoever held the lease is dead by then


class Deliverer:
    """Hands due deliveries to threads, so that a slow receiver delays only its own.

    A delivery that a crash interrupts is due again when its lease ends.
    """

    def __init__(self) -> None:
        self.pool = ThreadPoolExecutor(THREADS, thread_name_prefix="webhook")
        self.in_flight: set[Future[None]] = set()

    def turn(self, settings: Settings) -> None:
        done = {future for future in self.in_flight if future.done()}
        self.in_flight -= done
        for future in done:
            if (error := future.exception()) is not None:  # delivered again when its lease ends
                log.warning("webhook_not_settled", error=type(error).__name__)

        lease = timedelta(seconds=LEASE_FACTOR * settings.webhook_timeout_seconds)
        with db.transaction(settings.database_url.get_secret_value()) as session:
            due = webhook_deliveries.claim(session, limit=THREADS - len(self.in_flight), lease=lease)
        self.in_flight |= {self.pool.submit(deliver, settings, each) for each in due}


def sign(due: DueDelivery, secret: str, older: Sequence[str] = ()) -> dict[str, str]:
    """The headers of Standard Webhooks, with two signatures while a secret is being rotated.

    Raises: Unreadable.
    """
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


def send(settings: Settings, due: DueDelivery) -> tuple[int | None, str | None]:
    """POST the event once; returns (HTTP status, error), where the error is None if the receiver took it."""
    fixed = {"Content-Type": "application/json", "User-Agent": "Expunge-Webhooks", "Accept": "*/*"}
    try:
        headers = {**fixed, **sign(due, settings.secret.get_secret_value(), settings.older_secrets)}
        status = post(
            parse_target(due.url, settings),
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
    """Make one attempt and record it for the client; neither URL nor answer goes into our own log."""
    started = time.monotonic()
    try:
        status, error = send(settings, due)
    except Exception:
        log.exception("webhook_failed", delivery_id=str(due.id))
        status, error = None, "internal_error"
    seconds = time.monotonic() - started
    with db.transaction(settings.database_url.get_secret_value()) as session:
        now = webhook_deliveries.record_attempt(
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
