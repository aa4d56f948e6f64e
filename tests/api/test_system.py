import json
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import httpx
import pytest

from expunge.api.app import create_app
from expunge.api.openapi import FILE, text
from expunge.core.specs import METHODS
from expunge.store.settings import Settings
from tests.support.service import Tenant, errors


def test_the_committed_openapi_document_is_the_apps():
    assert FILE.read_text() == text(create_app(Settings(secret="x" * 40)))


def test_the_check_fails_when_the_document_is_stale(tmp_path: Path):
    code = (
        "import sys, pathlib, expunge.api.openapi as o; o.FILE = pathlib.Path(sys.argv[1]);"
        " sys.exit(o.main(sys.argv[2:]))"
    )
    run = [sys.executable, "-c", code, str(tmp_path / "openapi.json")]
    assert subprocess.run([*run, "--check"], capture_output=True).returncode == 1
    assert subprocess.run(run, capture_output=True).returncode == 0
    assert subprocess.run([*run, "--check"], capture_output=True).returncode == 0


def document() -> dict:
    return json.loads(FILE.read_text())


def operations() -> list[dict]:
    return [operation for item in document()["paths"].values() for operation in item.values()]


def test_operation_ids_are_stable_names():
    assert sorted(o["operationId"] for o in operations()) == [
        "cancel_job",
        "change_webhook",
        "check_health",
        "check_readiness",
        "compare_jobs",
        "create_artifact_link",
        "create_combine_job",
        "create_erase_job",
        "create_evaluate_job",
        "create_hide_job",
        "create_inspect_job",
        "create_key",
        "create_webhook",
        "delete_artifact",
        "delete_job",
        "delete_webhook",
        "download_artifact",
        "get_artifact",
        "get_job",
        "get_key",
        "get_queue",
        "get_webhook",
        "list_audit",
        "list_deliveries",
        "list_job_artifacts",
        "list_job_events",
        "list_jobs",
        "list_keys",
        "list_models",
        "list_reads",
        "list_signing_keys",
        "list_uploads",
        "list_webhooks",
        "pause_queue",
        "ping_webhook",
        "predict_impact",
        "read_metrics",
        "redeliver",
        "resume_queue",
        "retry_job",
        "revoke_key",
        "rotate_key",
        "rotate_webhook_secret",
        "upload_artifact",
    ]


def test_every_error_in_the_document_is_a_problem():
    for operation in operations():
        for status, response in operation["responses"].items():
            if status >= "400":
                assert list(response["content"]) == ["application/problem+json"], operation["operationId"]
        assert {"401", "500", "503"} <= set(operation["responses"]) or not operation["security"]


def test_methods_are_documented_as_a_union_with_bare_names_and_concepts_as_strings():
    schemas = document()["components"]["schemas"]
    erase = schemas["EraseSpec"]["properties"]
    names = erase["method"]["anyOf"][0]["enum"]
    assert sorted(names) == sorted(METHODS)
    assert set(erase["method"]["anyOf"][1]["discriminator"]["mapping"]) == set(METHODS)
    assert erase["concepts"]["items"]["anyOf"][0] == {"type": "string", "minLength": 1, "maxLength": 200}
    for spec in METHODS.values():
        for field, schema in schemas[spec.__name__]["properties"].items():
            assert field == "name" or "description" in schema or "$ref" in schema, (spec, field)


def test_the_documents_examples_are_valid(tenant: Tenant):
    body = document()["paths"]["/jobs/erase"]["post"]["requestBody"]["content"]["application/json"]
    for example in body["examples"].values():
        answer = tenant.http().post("/jobs/erase?dry_run=true", json=example["value"])
        if "base_job_id" in example["value"]:
            # All is right with it but that there is no such job here
            assert set(errors(answer)) == {"base_job_id"}
        else:
            assert answer.status_code == 200, answer.text


class Links(HTMLParser):
    """What a page loads or leads to."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [(tag, value or "") for name, value in attrs if name in ("href", "src")]


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_pages_stand_alone_and_their_links_lead_somewhere(anonymous: httpx.Client, path: str):
    answer = anonymous.get(path)
    assert answer.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    links = Links()
    links.feed(answer.text)
    assert links.found
    for tag, link in links.found:
        assert tag == "a"
        if link.startswith("#"):
            assert f'id="{link[1:]}"' in answer.text, link
        else:
            assert anonymous.get(link).status_code == 200, link


def test_models_are_listed_with_their_vocabulary(tenant: Tenant):
    [model] = tenant.http().get("/models").json()["items"]
    assert (model["id"], model["kind"]) == ("emoji", "bundled")
    vocabulary = Path(__file__).parents[2] / "core/bundled/emoji/vocabulary.json"
    if vocabulary.exists():
        assert model["vocabulary"]["concepts"] == len(json.loads(vocabulary.read_text())["concepts"])


def test_metrics_count_requests_by_route_and_jobs_by_status(tenant: Tenant):
    tenant.erase()
    tenant.http().get(f"/jobs/{tenant.erase()['id']}")
    text = httpx.get(tenant.url + "/metrics").text
    assert 'expunge_http_requests_total{method="GET",route="/jobs/{job_id}",status="200"}' in text
    assert 'expunge_jobs{status="queued"}' in text
    assert "expunge_queue_age_seconds" in text
    assert "expunge_http_request_seconds_bucket" in text


def test_a_given_request_id_comes_back_and_an_odd_one_does_not(anonymous: httpx.Client):
    assert (
        anonymous.get("/healthz", headers={"X-Request-ID": "trace-12345678"}).headers["x-request-id"]
        == "trace-12345678"
    )
    assert (
        anonymous.get("/healthz", headers={"X-Request-ID": "a b<script>"}).headers["x-request-id"]
        != "a b<script>"
    )
