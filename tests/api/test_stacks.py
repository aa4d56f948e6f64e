"""Jobs that stand on others: base_job_id, POST /jobs/combine."""

import uuid

import httpx
import pytest

from tests.support.service import Tenant, errors, serve

NOBODY = "00000000-0000-0000-0000-000000000000"


def finished(tenant: Tenant, folder, **spec) -> str:
    job = tenant.erase(**spec)["id"]
    tenant.finish(job, {}, folder)
    return job


@pytest.fixture
def done(tenant: Tenant, tmp_path):
    """A finished erase job of church."""
    return finished(tenant, tmp_path, concepts=["church"])


def test_combining_asks_for_a_key(anonymous: httpx.Client):
    assert anonymous.post("/jobs/combine", json={"jobs": [NOBODY]}).status_code == 401


def test_a_job_may_start_from_a_finished_one(tenant: Tenant, done):
    answer = tenant.http().post(
        "/jobs/erase", json={"concepts": ["dog"], "method": "uce", "base_job_id": done}
    )
    assert answer.status_code == 202, answer.text
    assert answer.json()["spec"]["base_job_id"] == done


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("preserve", {"preserve": ["Church"]}),
        ("concepts[0].target", {"concepts": [{"name": "dog", "target": "church"}]}),
    ],
)
def test_what_the_base_job_erased_can_neither_be_kept_nor_be_a_target(tenant: Tenant, done, field, change):
    answer = tenant.http().post(
        "/jobs/erase", json={"concepts": ["dog"], "method": "age", "base_job_id": done, **change}
    )
    assert "erased by" in errors(answer)[field]


def test_a_base_job_must_be_there_finished_and_the_tenants(tenant: Tenant, other: Tenant, done):
    unfinished = tenant.erase()["id"]
    for who, job_id in ((tenant, NOBODY), (tenant, unfinished), (other, done)):
        answer = who.http().post("/jobs/erase", json={"concepts": ["dog"], "base_job_id": job_id})
        assert set(errors(answer)) == {"base_job_id"}


def test_a_combination_names_finished_erase_jobs_of_the_model_once_each(tenant: Tenant, done):
    client = tenant.http()
    assert client.post("/jobs/combine", json={"jobs": [done]}).status_code == 202
    assert set(errors(client.post("/jobs/combine", json={"jobs": [done, str(uuid.uuid4())]}))) == {"jobs[1]"}
    assert "twice" in errors(client.post("/jobs/combine", json={"jobs": [done, done]}))["jobs"]
    assert set(errors(client.post("/jobs/combine", json={"jobs": []}))) == {"jobs"}


def test_what_is_withheld_is_not_delivered_as_a_part_of_another_but_can_be_judged(tenant: Tenant, tmp_path):
    job = tenant.erase(concepts=["church"])["id"]
    tenant.finish(job, {"delta": b"delta"}, tmp_path, {"status": "failed"}, {"delta"})
    client = tenant.http()
    combined = errors(client.post("/jobs/combine", json={"jobs": [job]}))
    assert "withheld, because its verdict is not 'passed'" in combined["jobs[0]"]
    onto = {"concepts": ["dog"], "method": "uce", "base_job_id": job}
    assert set(errors(client.post("/jobs/erase", json=onto))) == {"base_job_id"}
    assert client.post("/jobs/evaluate", json={"job_id": job}).status_code == 202


def test_judging_a_stacked_job_judges_all_that_its_stack_has_erased(tenant: Tenant, done, tmp_path):
    dog = finished(tenant, tmp_path, concepts=["dog"], base_job_id=done)
    answer = tenant.http().post("/jobs/evaluate", json={"job_id": dog})
    assert [c["name"] for c in answer.json()["spec"]["concepts"]] == ["church", "dog"]


@pytest.mark.parametrize("method", ["text_encoder", "adv_unlearn", "prune"])
def test_what_is_no_lora_of_the_unet_neither_stacks_nor_is_stacked_on(tenant: Tenant, done, tmp_path, method):
    text, client = finished(tenant, tmp_path, concepts=["dog"], method=method), tenant.http()
    for body in ({"base_job_id": done, "method": method}, {"base_job_id": text, "method": "uce"}):
        assert "a LoRA on the denoising network" in str(
            errors(client.post("/jobs/erase", json={"concepts": ["cat"], **body}))
        )
    assert set(errors(client.post("/jobs/combine", json={"jobs": [done, text]}))) == {"jobs[1]"}


def test_what_a_stack_has_erased_counts_towards_its_pictures(tenant: Tenant, tmp_path):
    jobs = [finished(tenant, tmp_path, concepts=[f"{letter}{i} x" for i in range(20)]) for letter in "abc"]
    with serve(tenant.settings.model_copy(update={"max_pictures": 2000})) as (url, _):
        client = httpx.Client(base_url=url, headers={"Authorization": f"Bearer {tenant.key()}"})
        asked = {"evaluation": {"erased_images": 20, "held_out_images": 0}}
        for path, body in (
            ("/jobs/combine", {"jobs": jobs}),
            (
                "/jobs/erase",
                {"concepts": [f"d{i} x" for i in range(40)], "base_job_id": jobs[0], "method": "uce"},
            ),
        ):
            for query in ("", "?dry_run=true"):
                found = errors(client.post(path + query, json={**body, **asked}))
                assert "2,400 of them by this field" in found["evaluation.erased_images"]
        assert client.post("/jobs/combine", json={"jobs": jobs[:1], **asked}).status_code == 202


def test_a_request_may_be_appended_to_what_a_job_erased(tenant: Tenant, done, tmp_path):
    client = tenant.http()
    second = finished(
        tenant,
        tmp_path,
        concepts=[{"name": "dog", "synonyms": ["hound"]}],
        preserve=["owl", "cat", "tyto", "Fishes"],
        base_job_id=done,
    )
    owl = {"name": "owl", "synonyms": ["tyto"]}
    asked = {"concepts": [owl], "method": "uce", "preserve": ["cat", "fish"], "append_job_id": second}
    answer = client.post("/jobs/erase", json=asked)
    assert answer.status_code == 202, answer.text
    spec = answer.json()["spec"]
    assert [(c["name"], c["synonyms"]) for c in spec["concepts"]] == [
        ("church", []),
        ("dog", ["hound"]),
        ("owl", ["tyto"]),
    ]
    assert spec["preserve"] == ["cat", "fish"]  # the owl is erased now, by any name; a fish is there once
    assert (spec["append_job_id"], spec["base_job_id"]) == (second, None)

    # Appended to once more, or sent again as it was resolved, nothing is there twice
    job = answer.json()["id"]
    tenant.finish(job, {}, tmp_path)
    again = client.post("/jobs/erase", json={"concepts": ["Churches"], "append_job_id": job}).json()["spec"]
    assert [c["name"] for c in again["concepts"]] == ["dog", "owl", "Churches"]
    assert client.post("/jobs/erase", json=spec).json()["spec"]["concepts"] == spec["concepts"]


def test_what_cannot_be_appended_is_named(tenant: Tenant, other: Tenant, done, tmp_path):
    client = tenant.http()

    def told(**asked) -> str:
        answer = client.post("/jobs/erase", json={"method": "uce", "append_job_id": done, **asked})
        return errors(answer).get("append_job_id", answer.text)

    assert "start" in told(concepts=["dog"], base_job_id=done)
    assert "'church' is itself to be erased" in told(concepts=[{"name": "dog", "target": "church"}])
    many = [f"thing {n}" for n in range(64)]
    assert "at most 64" in told(concepts=many)
    assert "there is no job" in told(concepts=["dog"], append_job_id=NOBODY)
    theirs = other.http().post("/jobs/erase", json={"concepts": ["dog"], "append_job_id": done})
    assert "there is no job" in errors(theirs)["append_job_id"]
    hidden = client.post("/jobs/hide", json={"concepts": ["dog"], "append_job_id": done})
    assert "append_job_id" in errors(hidden)
