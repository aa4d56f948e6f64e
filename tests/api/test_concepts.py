"""Concepts: POST /inspect and POST /concepts/impact."""

import httpx
import pytest

from tests.support import customer_models
from tests.support.service import Tenant, errors, make_settings, problem, serve

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
    answer = tenant.http().post(
        "/inspect", json={"job_id": done, "concept": "church", "concept_space": "english"}
    )
    assert answer.status_code == 202, answer.text
    job = answer.json()
    assert answer.headers["location"] == f"/jobs/{job['id']}"
    assert (job["kind"], job["status"]) == ("inspect", "queued")
    assert job["spec"]["concept"] == {**job["spec"]["concept"], "name": "church"}
    assert (job["spec"]["locality"], job["spec"]["concept_space"]) == (10.0, "english")
    assert [j["id"] for j in tenant.http().get("/jobs", params={"kind": "inspect"}).json()["items"]] == [
        job["id"]
    ]


def test_what_was_changed_is_what_the_job_erased(tenant: Tenant, done):
    job = tenant.http().post("/inspect", json={"job_id": done}).json()
    assert job["spec"]["concept"]["name"] == "church"


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
    assert (
        "not a concept space"
        in errors(client.post("/inspect", json={"job_id": done, "concept_space": "french"}))["concept_space"]
    )
    found = client.post("/inspect", json={"job_id": done, "localty": 3}).json()["errors"][0]
    assert (found["field"], "did you mean 'locality'?" in found["remedy"]) == ("localty", True)


def test_predicting_asks_for_a_key(anonymous: httpx.Client):
    problem(anonymous.post("/concepts/impact", json={"concepts": ["church"]}), 401, "unauthorized")


def test_predicting_takes_the_scope_jobs_read_and_stores_nothing(tenant: Tenant):
    assert tenant.http("jobs:read").post("/concepts/impact", json={"concepts": ["church"]}).status_code == 200
    assert (
        tenant.http("artifacts:read").post("/concepts/impact", json={"concepts": ["church"]}).status_code
        == 403
    )
    assert tenant.count() == 0


def test_the_answer_ranks_what_is_hurt_proposes_targets_and_says_the_cost(tenant: Tenant):
    body = {
        "concepts": [{"name": "church", "synonyms": ["mosque"]}, "dog"],
        "method": {"name": "esd", "steps": 20},
        "top": 5,
        "targets": 2,
    }
    found = tenant.http().post("/concepts/impact", json=body).json()
    assert (found["model"], found["method"], len(found["hurt"])) == ("emoji", "esd", 5)
    assert {"synagogue", "wolf"} <= {row["concept"] for row in found["hurt"]}
    assert not {"church", "mosque", "dog"} & {row["concept"] for row in found["hurt"]}
    drops = [row["clip"]["value"] for row in found["hurt"]]
    assert drops == sorted(drops, reverse=True)
    assert all(
        row[kind]["low"] <= row[kind]["value"] <= row[kind]["high"]
        for row in found["hurt"]
        for kind in ("clip", "psr")
    )
    assert [(t["concept"], len(t["targets"])) for t in found["targets"]] == [("church", 2), ("dog", 2)]
    assert "in-class" in found["targets"][0]["targets"][0]["reason"]
    assert found["cost"]["unet_evaluations"] > 0
    assert 0 < found["held_out"]["r2"] < 1
    more = (
        tenant.http().post("/concepts/impact", json={**body, "method": {"name": "esd", "steps": 40}}).json()
    )
    assert more["cost"]["unet_evaluations"] == pytest.approx(2 * found["cost"]["unet_evaluations"], abs=1)


def test_a_concept_outside_of_the_graph_is_told_what_to_do(tenant: Tenant):
    message = tenant.http().post("/concepts/impact", json={"concepts": ["dog", "churhc"]}).json()["errors"]
    assert message[0]["field"] == "concepts[1]"
    assert "did you mean 'church'?" in message[0]["remedy"]
    assert "POST /inspect" in message[0]["remedy"]


def test_an_unknown_model_and_a_wrong_field_are_told(tenant: Tenant):
    client = tenant.http()
    assert set(errors(client.post("/concepts/impact", json={"model": "flux", "concepts": ["dog"]}))) == {
        "model"
    }
    assert set(errors(client.post("/concepts/impact", json={"concepts": []}))) == {"concepts"}
    found = client.post("/concepts/impact", json={"concepts": ["dog"], "top": 5, "taregts": 1}).json()[
        "errors"
    ][0]
    assert "did you mean 'targets'?" in found["remedy"]


def test_a_model_without_a_graph_is_told_which_jobs_to_run(postgres_url: str, redis_url: str, tmp_path):
    folder = customer_models.copy(tmp_path / "plain")
    (folder / "concept_graph.json").unlink()
    settings = make_settings(postgres_url, redis_url, tmp_path / "artifacts", models={"plain": str(folder)})
    with serve(settings) as (url, _):
        answer = (
            Tenant(url, settings)
            .http()
            .post("/concepts/impact", json={"model": "plain", "concepts": ["dog"]})
        )
        assert "POST /inspect" in problem(answer, 422, "no_concept_graph")["detail"]
