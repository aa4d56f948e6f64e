"""schemathesis with all its checks over the whole document, stateful links included, against a running
service.
"""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.service import Tenant, make_settings, serve

CONFIG = Path(__file__).with_name("schemathesis.toml")


# The links are followed for as long as they are allowed to be; the other phases end by themselves.
PHASES = {
    "each operation": ["--phases", "examples,coverage,fuzzing"],
    "links": ["--phases", "stateful", "--max-time", "20"],
}


@pytest.fixture
def tenant(postgres_url: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tenant]:
    """Of a service whose metrics take the operator's token, as a deployment's do."""
    settings = make_settings(
        postgres_url, redis_url, tmp_path_factory.mktemp("artifacts"), metrics_public=False
    )
    with serve(settings) as (url, _):
        yield Tenant(url, settings)


@pytest.mark.slow
@pytest.mark.parametrize("phases", PHASES.values(), ids=PHASES)
def test_the_service_keeps_what_its_document_promises(phases: list[str], tenant: Tenant, tmp_path: Path):
    for _ in range(2):
        tenant.finish(tenant.erase()["id"], {"a.txt": b"a"}, tmp_path)
    client = tenant.http()
    command = [
        sys.executable,
        "-c",
        "from schemathesis.cli import schemathesis; schemathesis()",
        "--config-file",
        str(CONFIG),
        "run",
        str(CONFIG.parents[2] / "openapi.json"),
        "--url",
        tenant.url,
        "--header",
        f"Authorization: {client.headers['authorization']}",
        "--no-color",
        "--checks",
        "all",
        *phases,
    ]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=500
    )
    assert done.returncode == 0, done.stdout[-10_000:] + done.stderr[-3000:]
    for phase in phases[1].split(","):
        assert f"✅  {phase.capitalize()} (in " in done.stdout
        assert f"{phase.capitalize()} (in 0.00s)" not in done.stdout, "there was no time for it"
    assert httpx.get(f"{tenant.url}/readyz").status_code == 200
