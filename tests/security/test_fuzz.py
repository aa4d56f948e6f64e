"""Every operation under a corpus of bad requests: each is refused by a problem that names what is wrong, and
none becomes a job.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field

import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, settings as hypothesis_settings

from expunge.api.app import create_app
from expunge.store.settings import Settings
from tests.support.bad_requests import Bad, Operation, attacks, near, walk
from tests.support.service import SECRET, Tenant

OPERATIONS = walk(create_app(Settings(secret=SECRET)))
LEAST = 2000  # bad requests in all
PATIENCE = 30  # seconds after which a request counts as hung
steady = hypothesis_settings(
    phases=[Phase.generate],
    report_multiple_bugs=False,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@dataclass
class Target:
    """A tenant that has one of everything, so that a bad request meets a good address."""

    tenant: Tenant
    client: httpx.Client
    ids: dict[str, str]
    before: int
    sent: dict[str, set[Bad]] = field(default_factory=dict)

    def send(self, bad: Bad) -> httpx.Response:
        headers = [(name.encode(), value) for name, value in bad.headers]
        if not any(name.lower() == b"authorization" for name, _ in headers):
            headers.append((b"Authorization", self.client.headers["authorization"].encode()))
        base = self.client.base_url
        url = httpx.URL(scheme=base.scheme, host=base.host, port=base.port, raw_path=bad.target.encode())
        return self.client.send(
            httpx.Request(bad.verb, url, headers=[(b"Host", base.netloc), *headers], content=bad.body)
        )


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def target(service: str, settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    tenant = Tenant(service, settings)
    client = tenant.http()
    client.timeout = httpx.Timeout(PATIENCE)
    job = tenant.erase()["id"]
    (artifact,) = tenant.finish(tenant.erase()["id"], {"a.txt": b"a" * 100}, tmp_path_factory.mktemp("made"))
    webhook = client.post("/webhooks", json={"url": "https://hooks.example.com/x"}).json()["id"]
    delivery = client.post(f"/webhooks/{webhook}/ping").json()["id"]
    key = client.post("/keys", json={"name": "x", "scopes": ["jobs:read"]}).json()["id"]
    ids = {
        "job_id": job,
        "artifact_id": str(artifact.id),
        "webhook_id": webhook,
        "delivery_id": delivery,
        "key_id": key,
        "name": "report-1",
    }
    yield Target(tenant, client, ids, tenant.count())
    client.close()


def refused(answer: httpx.Response, bad: Bad) -> None:
    """A 4xx, as a problem, that names the field at fault."""
    assert 400 <= answer.status_code < 500, f"{answer.status_code} {answer.text[:300]}"
    if bad.verb == "HEAD":
        return
    assert answer.headers["content-type"] == "application/problem+json"
    found = answer.json()
    assert found["request_id"] == answer.headers["x-request-id"]
    fields = [error["field"] for error in found.get("errors", [])]
    assert any(near(name, bad.field) for name in fields), (
        f"{bad.field} is not named: {json.dumps(found)[:600]}"
    )


@pytest.mark.parametrize("operation", OPERATIONS, ids=str)
def test_every_operation_refuses_what_it_cannot_use_and_names_it(target: Target, operation: Operation):
    sent: set[Bad] = set()
    strategies = {
        part: strategy for part, strategy in attacks(operation, target.ids).items() if not strategy.is_empty
    }
    for part, strategy in strategies.items():

        @hypothesis_settings(steady, max_examples=45 if part == "fields" else max(8, 45 // len(strategies)))
        @given(strategy)
        def attack(bad: Bad) -> None:
            sent.add(bad)
            refused(target.send(bad), bad)

        attack()
    assert len(sent) >= -(-LEAST // len(OPERATIONS))
    assert target.tenant.count() == target.before
