import re
import subprocess
import sys
import time
import uuid
from datetime import timedelta

import httpx
import pytest

from expunge.api.app import create_app
from expunge.api.middleware.authentication import PUBLIC
from expunge.core import json_schemas
from expunge.store import db, keys
from expunge.store.settings import Settings
from tests.support.service import Tenant, make_settings, problem, serve


def walked() -> list[tuple[str, str]]:
    """Every (method, path) that the app serves, ids filled in."""
    document = create_app(Settings(secret="x" * 40)).openapi()
    extra = [("GET", path) for path in ("/openapi.json", "/docs", "/", "/schemas/report-1")]
    found = [(verb.upper(), path) for path, item in document["paths"].items() for verb in item] + extra
    found += [("HEAD", path) for verb, path in found if verb == "GET"]
    return [(verb, re.sub(r"\{\w+\}", str(uuid.UUID(int=0)), path)) for verb, path in found]


CLOSED = [(verb, path) for verb, path in walked() if path not in PUBLIC and path != "/metrics"]


def test_every_route_is_walked():
    app = create_app(Settings(secret="x" * 40))
    served = {re.sub(r":\w+", "", path) for path in paths(app.routes)}
    assert served == set(app.openapi()["paths"]) | {"/openapi.json", "/docs", "/", "/schemas/{name}"}


def paths(routes) -> set[str]:
    found = set()
    for route in routes:
        inner = getattr(getattr(route, "original_router", None), "routes", None)
        found |= paths(inner) if inner else {route.path}
    return found


@pytest.mark.parametrize(("verb", "path"), CLOSED)
def test_anonymous_is_told_401_by_every_closed_route(anonymous: httpx.Client, verb: str, path: str):
    answer = anonymous.request(verb, path, content=b"not even json")
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")
    if verb != "HEAD":
        problem(answer, 401, "unauthorized")


@pytest.mark.parametrize("path", ["/nowhere", "/jobs/", "/static/x"])
def test_anonymous_learns_nothing_about_unknown_paths(anonymous: httpx.Client, path: str):
    problem(anonymous.get(path), 401, "unauthorized")


@pytest.mark.parametrize("path", sorted(PUBLIC))
def test_public_routes_need_no_key(anonymous: httpx.Client, path: str):
    assert anonymous.get(path).status_code == 200


def test_the_schemas_are_served_as_committed(anonymous: httpx.Client, tenant: Tenant):
    answer = anonymous.get("/schemas/report-1")
    assert answer.json() == json_schemas.read("report-1")
    assert answer.headers["content-type"] == "application/schema+json"
    told = problem(tenant.http().get("/schemas/report-9"), 404, "not_found")
    assert "report-1" in told["detail"]


WRONG = [
    "Basic eDp5",
    "Bearer",
    "Bearer nonsense",
    "ex_live_bare",
    pytest.param("Bearer " + keys.generate_key(), id="well formed"),
]


@pytest.mark.parametrize("header", WRONG)
def test_a_wrong_key_is_refused(anonymous: httpx.Client, header: str):
    problem(anonymous.get("/jobs", headers={"Authorization": header}), 401, "unauthorized")


def test_a_revoked_key_is_refused_within_a_second(tenant: Tenant):
    client = tenant.http()
    assert client.get("/jobs").status_code == 200
    with db.transaction(tenant.database) as session:
        for key in keys.list_keys(session, tenant.id):
            keys.revoke(session, tenant.id, key.id)
    time.sleep(1)
    problem(client.get("/jobs"), 401, "unauthorized")


def test_an_expired_key_is_refused(tenant: Tenant, anonymous: httpx.Client):
    key = tenant.key(expires_in=timedelta(seconds=-1))
    problem(anonymous.get("/jobs", headers={"Authorization": f"Bearer {key}"}), 401, "unauthorized")


@pytest.mark.parametrize(("verb", "path"), CLOSED)
def test_a_key_without_the_scope_is_told_403(tenant: Tenant, verb: str, path: str):
    answer = tenant.http("keys:read").request(
        verb, path, json={"concepts": ["church"]} if verb == "POST" else None
    )
    assert answer.status_code == 403
    assert 'error="insufficient_scope"' in answer.headers["www-authenticate"]


@pytest.mark.parametrize("suffix", ["", "/events", "/artifacts", "/cancel", "/retry"])
def test_anothers_job_looks_like_no_job(tenant: Tenant, other: Tenant, suffix: str):
    verb = "POST" if suffix in ("/cancel", "/retry") else "GET"
    theirs = other.erase()["id"]
    client = tenant.http()
    found = problem(client.request(verb, f"/jobs/{theirs}{suffix}"), 404, "not_found")
    unknown = problem(client.request(verb, f"/jobs/{uuid.uuid4()}{suffix}"), 404, "not_found")
    assert {k: v for k, v in found.items() if k not in ("instance", "request_id")} == {
        k: v for k, v in unknown.items() if k not in ("instance", "request_id")
    }
    assert other.http().get(f"/jobs/{theirs}").json()["status"] == "queued"


@pytest.mark.parametrize("token", ["", "the operator's own"])
def test_metrics_take_the_operators_token_on_this_machine_too_and_no_tenants_key(
    postgres_url, redis_url, tmp_path, token: str
):
    settings = make_settings(postgres_url, redis_url, tmp_path, metrics_public=False, metrics_token=token)
    with serve(settings) as (url, _):
        tenant = Tenant(url, settings)
        for header in (None, "Bearer", f"Bearer {tenant.key('admin')}", "Bearer the operator", "Basic dGhl"):
            problem(
                httpx.get(f"{url}/metrics", headers={"Authorization": header} if header else {}),
                401,
                "unauthorized",
            )
        good = httpx.get(f"{url}/metrics", headers={"Authorization": f"Bearer {token or 'x'}"})
        assert good.status_code == (200 if token else 401)
        assert ("expunge_jobs" in good.text) == bool(token)


def test_the_app_imports_neither_torch_nor_anything_as_heavy():
    heavy = [
        "torch",
        "diffusers",
        "transformers",
        "peft",
        "torchvision",
        "open_clip",
        "scipy",
        "onnxruntime",
        "cv2",
    ]
    code = f"import sys, expunge.api.app; print([m for m in {heavy} if m in sys.modules])"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )
