"""The security checklist, where it speaks of every route at once, and of what is shipped."""

import ast
import re
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import psycopg
import pytest
from fastapi import APIRouter, FastAPI
from sqlalchemy.engine import make_url
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from expunge.api.app import create_app
from expunge.api.middleware.authentication import METRICS
from expunge.store import db
from expunge.store.keys import SCOPES
from expunge.store.settings import Settings
from tests.support.bad_requests import GOOD, Operation, walk
from tests.support.service import SECRET, Tenant, make_settings, serve

ROOT = Path(__file__).parents[2]
# Metrics take the operator's token
OPERATIONS = [o for o in walk(create_app(Settings(secret=SECRET))) if not o.open and o.path != METRICS]
SCOPE = {
    "jobs:write": {
        "POST /jobs/erase",
        "POST /jobs/hide",
        "POST /jobs/evaluate",
        "POST /jobs/combine",
        "POST /inspect",
        "POST /jobs/{job_id}/cancel",
        "POST /jobs/{job_id}/retry",
        "DELETE /jobs/{job_id}",
        "POST /artifacts",
        "DELETE /artifacts/{artifact_id}",
    },
    "jobs:read": {
        "GET /jobs",
        "GET /jobs/{job_id}",
        "GET /jobs/{job_id}/events",
        "GET /compare",
        "GET /models",
        "POST /concepts/impact",
        "GET /queue",
    },
    "artifacts:read": {
        "GET /artifacts",
        "GET /compare",
        "GET /jobs/{job_id}/artifacts",
        "GET /artifacts/{artifact_id}",
        "GET /artifacts/{artifact_id}/content",
        "POST /artifacts/{artifact_id}/link",
    },
    "webhooks:write": {
        "POST /webhooks",
        "GET /webhooks",
        "GET /webhooks/{webhook_id}",
        "PATCH /webhooks/{webhook_id}",
        "DELETE /webhooks/{webhook_id}",
        "POST /webhooks/{webhook_id}/rotate",
        "POST /webhooks/{webhook_id}/ping",
        "GET /webhooks/{webhook_id}/deliveries",
        "POST /webhooks/{webhook_id}/deliveries/{delivery_id}/redeliver",
    },
    "admin": {
        "GET /artifacts/{artifact_id}/reads",
        "GET /audit",
        "POST /keys",
        "GET /keys",
        "GET /keys/{key_id}",
        "POST /keys/{key_id}/rotate",
        "DELETE /keys/{key_id}",
        "POST /queue/pause",
        "POST /queue/resume",
    },
}
"""What each operation takes, where it stands twice both; `admin` may do all."""


@pytest.fixture(scope="module")
def client(service: str) -> Iterator[httpx.Client]:
    """One client for all, without a key."""
    with httpx.Client(base_url=service, timeout=60) as opened:
        yield opened


@pytest.fixture(scope="module")
def me(service: str, settings: Settings) -> Tenant:
    return Tenant(service, settings)


def bearer(tenant: Tenant, *scopes: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {tenant.key(*scopes)}"}


def ask(client: httpx.Client, operation: Operation, ids: dict[str, str], **headers: str) -> httpx.Response:
    """A request that would do, were it not for the ids or the key."""
    body = GOOD[operation.schema][0] if operation.schema else None
    return client.request(operation.verb, operation.at(ids), json=body, headers=headers)


NOWHERE = {
    name: str(uuid.uuid4()) for name in ("job_id", "artifact_id", "webhook_id", "delivery_id", "key_id")
} | {"name": "report-1"}


def test_every_operation_has_its_scope():
    assert {str(operation) for operation in OPERATIONS} == set().union(*SCOPE.values())


@pytest.mark.parametrize("operation", OPERATIONS, ids=str)
def test_an_operation_takes_its_own_scope_and_no_other(
    client: httpx.Client, me: Tenant, operation: Operation
):
    needed = {scope for scope, operations in SCOPE.items() if str(operation) in operations}
    others = [scope for scope in SCOPES if scope not in (*needed, "admin")]
    if "/content" in operation.path:
        others.remove("keys:read")  # a recovery key's content takes that instead
    assert ask(client, operation, NOWHERE, **bearer(me, *others)).status_code == 403
    for scopes in (needed, {"admin"}):
        assert ask(client, operation, NOWHERE, **bearer(me, *scopes)).status_code != 403


@pytest.fixture(scope="module")
def somebody(service: str, settings: Settings) -> Tenant:
    return Tenant(service, settings)


@pytest.fixture(scope="module")
def theirs(somebody: Tenant, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """One of everything that is somebody else's, which is there and unchanged after all that strangers
    did.
    """
    with somebody.http() as mine:
        (artifact,) = somebody.finish(
            somebody.erase()["id"], {"a.txt": b"a"}, tmp_path_factory.mktemp("made")
        )
        webhook = mine.post("/webhooks", json={"url": "https://hooks.example.com/x"}).json()["id"]
        delivery = mine.post(f"/webhooks/{webhook}/ping").json()["id"]
        key = mine.post("/keys", json={"name": "x", "scopes": ["jobs:read"]}).json()["id"]
        job = somebody.erase()["id"]
        yield {
            "job_id": job,
            "artifact_id": str(artifact.id),
            "webhook_id": webhook,
            "delivery_id": delivery,
            "key_id": key,
        }
        assert mine.get(f"/jobs/{job}").json()["status"] == "queued"
        assert mine.get(f"/webhooks/{webhook}").json()["enabled"] is True
        assert mine.get(f"/keys/{key}").json()["revoked_at"] is None
        assert mine.get(f"/artifacts/{artifact.id}/content").content == b"a"


@pytest.mark.parametrize("operation", [o for o in OPERATIONS if "{" in o.path], ids=str)
def test_what_is_anothers_looks_like_what_is_not_there(
    client: httpx.Client, me: Tenant, theirs: dict[str, str], operation: Operation
):
    key = bearer(me)
    known, unknown = ask(client, operation, theirs, **key), ask(client, operation, NOWHERE, **key)
    assert known.status_code == unknown.status_code == 404
    own = {"content-length", "x-request-id", "date"}
    assert {k: v for k, v in known.headers.items() if k not in own} == {
        k: v for k, v in unknown.headers.items() if k not in own
    }
    if operation.verb != "HEAD":
        bodies = [
            {k: v for k, v in answer.json().items() if k not in ("instance", "request_id")}
            for answer in (known, unknown)
        ]
        assert bodies[0] == bodies[1]


@pytest.fixture(scope="module")
def careless(settings: Settings) -> Iterator[str]:
    """The app, after somebody has added routes and mounts and thought of no key."""

    def plain(_: object) -> PlainTextResponse:
        return PlainTextResponse("open")

    with serve(settings) as (url, app):
        assert isinstance(app, FastAPI)
        router = APIRouter()
        router.add_api_route("/jobs-v2", lambda: "open", methods=["GET", "POST"])
        app.include_router(router)
        app.add_api_route("/healthz/more", lambda: "open")
        app.router.routes.append(Mount("/static", routes=[Route("/x", plain)]))
        app.router.routes.append(Route("/raw", plain))
        yield url


@pytest.mark.parametrize(
    "path",
    [
        "/jobs-v2",
        "/healthz/more",
        "/static/x",
        "/raw",
        "/healthz/",
        "//healthz",
        "/docs/",
        "/HEALTHZ",
        "/openapi.json/..%2fjobs",
    ],
)
def test_a_route_that_nobody_closed_is_closed(client: httpx.Client, careless: str, path: str):
    base = httpx.URL(careless)
    for verb in ("GET", "POST", "HEAD", "OPTIONS"):
        url = httpx.URL(scheme=base.scheme, host=base.host, port=base.port, raw_path=path.encode())
        assert client.request(verb, url).status_code == 401


@pytest.mark.parametrize("operation", walk(create_app(Settings(secret=SECRET))), ids=str)
def test_every_answer_has_the_safe_headers_and_lets_no_other_site_read_it(
    client: httpx.Client, me: Tenant, operation: Operation
):
    for key in ({}, bearer(me)):
        answer = ask(client, operation, NOWHERE, Origin="https://elsewhere.example", **key)
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert not [name for name in answer.headers if name.startswith("access-control-")]
        if not operation.open:
            assert "no-store" in answer.headers["cache-control"]


# What is shipped

PACKAGES = ("api", "client", "core", "embedded", "migrations", "store", "worker")
BANNED_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "joblib", "marshal"}


def calls(file: Path) -> Iterator[tuple[str, ast.Call]]:
    """(dotted name, node) of every call."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def sources() -> list[Path]:
    return [file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py"))]


def test_nothing_shipped_can_read_a_pickle():
    assert {file.relative_to(ROOT).parts[0] for file in sources()} == set(PACKAGES)
    for file in sources():
        for node in ast.walk(ast.parse(file.read_text())):
            names = (
                [a.name for a in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
            assert not {name.split(".")[0] for name in names} & BANNED_MODULES, file
        for name, call in calls(file):
            given = {k.arg: ast.unparse(k.value) for k in call.keywords}
            assert name not in (
                "torch.load",
                "torch.hub.load",
                "np.load",
                "numpy.load",
                "eval",
                "exec",
                "yaml.load",
                "yaml.unsafe_load",
            ), f"{file}: {name}"
            assert given.get("allow_pickle", "False") == given.get("trust_remote_code", "False") == "False", (
                f"{file}: {name}"
            )


def test_whole_models_are_read_from_safetensors_only():
    """diffusers falls back to pickles, silently, where it may choose."""
    without = re.compile(r"Tokenizer|Config|^getattr\(diffusers, layout\.scheduler")  # what has no weights
    found = [
        (f, call)
        for f in sources()
        for name, call in calls(f)
        if name.endswith(".from_pretrained") and not without.search(name)
    ]
    assert found
    for file, call in found:
        assert {k.arg: ast.unparse(k.value) for k in call.keywords}.get("use_safetensors") == "True", file


def test_ruff_bans_what_runs_code():
    ruff = re.search(r"select = \[(.*)\]", (ROOT / "pyproject.toml").read_text())
    assert ruff is not None
    assert '"S"' in ruff[1]
    assert "S301" not in re.sub(
        r"(?s)\[tool.ruff.lint.per-file-ignores\].*?\n\n", "", (ROOT / "pyproject.toml").read_text()
    )


# The database's role


def test_the_service_runs_with_a_role_that_only_reads_and_writes_rows(
    postgres_url: str, redis_url: str, tmp_path: Path
):
    role, password = "service_" + uuid.uuid4().hex[:8], uuid.uuid4().hex
    grants = [
        line
        for line in (ROOT / "ops" / "service_role.sql").read_text().replace(":role", role).splitlines()
        if not line.startswith("--")
    ]
    with psycopg.connect(postgres_url, autocommit=True) as owner:
        owner.execute(f"create role {role} login password '{password}'")
        for line in grants:
            owner.execute(line)
    theirs = (
        make_url(postgres_url).set(username=role, password=password).render_as_string(hide_password=False)
    )
    settings = make_settings(theirs, redis_url, tmp_path / "artifacts")
    with serve(settings) as (url, _):
        tenant = Tenant(url, settings)
        client = tenant.http()
        assert client.get("/readyz").json()["checks"]["database"] == "ok"
        (made,) = tenant.finish(tenant.erase()["id"], {"a.txt": b"a"}, tmp_path)
        assert client.get(f"/artifacts/{made.id}/content").content == b"a"
        tenant.fail(job := tenant.erase()["id"], tenant.claim(job))
        assert client.post(f"/jobs/{job}/retry").status_code == 202
        assert client.post(f"/jobs/{tenant.erase()['id']}/cancel").json()["status"] == "cancelled"
        webhook = client.post("/webhooks", json={"url": "https://hooks.example.com/x"}).json()["id"]
        assert client.post(f"/webhooks/{webhook}/ping").status_code == 202
        assert client.post(f"/webhooks/{webhook}/rotate").status_code == 200
        assert client.delete(f"/webhooks/{webhook}").status_code == 204
        key = client.post("/keys", json={"name": "x", "scopes": ["jobs:read"]}).json()["id"]
        assert client.post(f"/keys/{key}/rotate").status_code == 201
        assert {act["action"] for act in client.get("/audit").json()["items"]} >= {
            "job.created",
            "artifact.downloaded",
            "webhook.removed",
            "key.rotated",
        }
    with psycopg.connect(theirs, autocommit=True) as service:
        for statement in (
            "create table x (y int)",
            "drop table jobs",
            "alter table jobs add column x int",
            "truncate jobs",
            "update audit set action = 'x'",
            "delete from audit",
            "delete from artifact_reads",
            "drop trigger append_only_rows on audit",
            "alter table audit disable trigger all",
            "create role x",
            "update alembic_version set version_num = 'x'",
            "set session_replication_role = replica",
            "copy jobs to program 'true'",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                service.execute(statement)
    db.engine(theirs).dispose()
    with psycopg.connect(postgres_url, autocommit=True) as owner:
        owner.execute(f"drop owned by {role}")
        owner.execute(f"drop role {role}")
