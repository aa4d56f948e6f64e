"""What the tests of webhooks share: endpoints, jobs that end, and rounds of the loop that delivers."""

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import pytest

from expunge.store import attempts, db, jobs, keys, webhooks
from expunge.store.models import Delivery, Tenant, Webhook
from expunge.store.settings import Settings
from expunge.worker.webhooks import Deliverer

LEASE = timedelta(seconds=60)
SECRET = "0123456789abcdef" * 4


@dataclass(frozen=True)
class Actor:
    key_id: uuid.UUID
    address: str | None = "192.0.2.7"
    request_id: str = "request-1"


@pytest.fixture
def settings(settings) -> Settings:
    """Plain http to this machine allowed, retries at once."""
    changes = {
        "webhook_allowed_hosts": ("127.0.0.1", "hooks.test"),
        "webhook_retry_seconds": (0.0,) * 9,
        "webhook_timeout_seconds": 5.0,
    }
    return settings.model_copy(update=changes)


@pytest.fixture
def url(settings) -> str:
    return settings.database_url.get_secret_value()


@pytest.fixture
def hook(url, tenant) -> Callable[..., tuple[Webhook, str]]:
    """hook(url, of=tenant, **facts): a committed webhook and its secret."""

    def made(where: str, of: Tenant = tenant, **facts: object) -> tuple[Webhook, str]:
        with db.transaction(url) as session:
            actor = Actor(keys.create(session, SECRET, of.id, name="ci")[0].id)
            values = {"events": webhooks.EVENTS, "description": "", "enabled": True, **facts}
            return webhooks.create(session, of.id, actor, url=where, secret=SECRET, **values)  # type: ignore[arg-type]

    return made


@pytest.fixture
def end(url, tenant) -> Callable[..., uuid.UUID]:
    """end(of=tenant): a job that has been published."""

    def ended(of: Tenant = tenant) -> uuid.UUID:
        with db.transaction(url) as session:
            job = jobs.create_job(
                session, of.id, "erase", {"concepts": ["a secret concept"]}, labels={"team": "hush"}
            )
            claimed = attempts.claim(session, job.id, owner="test", lease=LEASE)
            assert claimed is not None
            few = {"metric": "esr1", "concept": "a secret concept", "status": "not shown"}
            checks = [few | {"cause": "few_pictures", "reason": "a secret concept"}, {"status": "passed"}]
            verdict = {"status": "not shown", "passed": None, "checks": checks, "delivery": "marked"}
            verdict["artifact_sha256"] = "ab" * 32
            attempts.publish(session, job.id, claimed.fence, [], verdict=verdict, progress=None)
            return job.id

    return ended


def all_deliveries(url: str) -> list[Delivery]:
    with db.transaction(url) as session:
        return list(session.query(Delivery).order_by(Delivery.created_at, Delivery.id))


def run(settings: Settings, rounds: int = 200) -> list[Delivery]:
    """Rounds of the loop until nothing is left that is due."""
    loop, url = Deliverer(), settings.database_url.get_secret_value()
    for _ in range(rounds):
        loop.turn(settings)
        for flight in list(loop.in_flight):
            flight.result()
        found = all_deliveries(url)
        if all(d.status != "pending" for d in found):
            break
    loop.pool.shutdown()
    return found


def errors(delivery: Delivery) -> list[tuple[int | None, str | None]]:
    return [(entry["status"], entry["error"]) for entry in delivery.log]
