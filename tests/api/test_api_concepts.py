"""Concepts: POST /inspect."""

import httpx
import pytest
from live_service import Tenant, errors

NOBODY = "00000000-0000-0000-0000-000000000000"


@pytest.fixture
def done(tenant: Tenant, tmp_path) -> str:
    """A finished erase job of church."""
    job = tenant.erase(concepts=["church"])["id"]
    tenant.finish(job, {}, tmp_path)
    return job


def test_inspecting_asks_for_a_key(anonymous: httpx.Client):
    assert anonymous.post("/inspect", json={"job_id": NOBODY}).status_code == 401


def test_inspecting_takes_the_scope_jobs_write(tenant: Tenant, done):
    assert tenant.http("jobs:read").post("/inspect", json={"job_id": done}).status_code == 403


def test_an_inspection_is_a_job_with_every_default_filled_in(tenant: Tenant, done):
    answer = tenant.http().post("/inspect", json={"job_id": done, "concept": "church", "concept_space": "english"})
    assert answer.status_code == 202, answer.text
    job = answer.json()
    assert answer.headers["location"] == f"/jobs/{job['id']}"
    assert (job["kind"], job["status"]) == ("inspect", "queued")
    assert job["spec"]["concept"] == {**job["spec"]["concept"], "name": "church"}
    assert (job["spec"]["locality"], job["spec"]["concept_space"]) == (10.0, "english")
    assert [j["id"] for j in tenant.http().get("/jobs", params={"kind": "inspect"}).json()["items"]] == [job["id"]]


def test_a_dry_run_stores_nothing(tenant: Tenant, done):
    before = tenant.count()
    answer = tenant.http().post("/inspect?dry_run=true", json={"job_id": done})
    assert (answer.status_code, answer.json()["kind"]) == (200, "inspect")
    assert tenant.count() == before


def test_both_models_must_be_there_finished_and_the_tenants(tenant: Tenant, other: Tenant, done):
    unfinished = tenant.erase()["id"]
    for who, body, field in (
        (tenant, {"job_id": NOBODY}, "job_id"),
        (tenant, {"job_id": unfinished}, "job_id"),
        (other, {"job_id": done}, "job_id"),
        (tenant, {"artifact_id": NOBODY}, "artifact_id"),
        (tenant, {"job_id": done, "against_job_id": NOBODY}, "against_job_id"),
        (tenant, {"job_id": done, "against_artifact_id": NOBODY}, "against_artifact_id"),
    ):
        assert set(errors(who.http().post("/inspect", json=body))) == {field}


def test_a_wrong_request_is_told_what_would_be_right(tenant: Tenant, done):
    client = tenant.http()
    assert "exactly one of job_id" in errors(client.post("/inspect", json={}))["body"]
    assert "no concept space" in errors(client.post("/inspect", json={"job_id": done, "concept_space": "french"}))["concept_space"]
    found = client.post("/inspect", json={"job_id": done, "localty": 3}).json()["errors"][0]
    assert (found["field"], "did you mean 'locality'?" in found["remedy"]) == ("localty", True)
