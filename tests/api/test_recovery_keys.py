"""Hide jobs, and who may read, audit and revoke the recovery keys that they make."""

import hashlib
import uuid
from pathlib import Path

import httpx
import pytest

from expunge.store import artifacts, db, jobs
from expunge.store.models import ArtifactRead
from tests.support.service import Tenant, errors, problem

KEY = bytes(range(256)) * 8
FILES = {"recovery_key.safetensors": KEY, "pytorch_lora_weights.safetensors": b"delta"}
EVERYONE = ("jobs:read", "jobs:write", "artifacts:read")


@pytest.fixture
def hidden(tenant: Tenant, tmp_path: Path) -> dict[str, str]:
    """A finished hide job's artifact ids by name, and the job's own."""
    answer = tenant.http().post("/jobs/hide", json={"concepts": ["church"]})
    assert answer.status_code == 202, answer.text
    made = tenant.finish(answer.json()["id"], FILES, tmp_path)
    return {"job": answer.json()["id"], **{a.name: str(a.id) for a in made}}


@pytest.fixture
def key(hidden: dict[str, str]) -> str:
    return hidden["recovery_key.safetensors"]


def stored(tenant: Tenant, artifact_id: str) -> Path:
    with db.transaction(tenant.database) as session:
        row = artifacts.get(session, tenant.id, uuid.UUID(artifact_id))
    return Path(tenant.settings.artifacts_url.removeprefix("file://")) / row.key


def test_anonymous_may_not_ask_for_hiding_nor_for_a_key(anonymous: httpx.Client, key: str):
    problem(anonymous.post("/jobs/hide", json={"concepts": ["church"]}), 401, "unauthorized")
    for verb, path in (
        ("GET", f"/artifacts/{key}/content"),
        ("GET", f"/artifacts/{key}/reads"),
        ("DELETE", f"/artifacts/{key}"),
    ):
        problem(anonymous.request(verb, path), 401, "unauthorized")


def test_a_hide_job_is_a_job_like_any_other(tenant: Tenant):
    client, once = tenant.http(), {"Idempotency-Key": str(uuid.uuid4())}
    body = {
        "concepts": ["church"],
        "recovery": {"length": 4},
        "labels": {"ticket": "7"},
        "queue_timeout_s": 60,
    }
    first, again = (
        client.post("/jobs/hide", json=body, headers=once),
        client.post("/jobs/hide", json=body, headers=once),
    )
    assert (first.status_code, first.headers["location"]) == (202, f"/jobs/{first.json()['id']}")
    assert first.json()["id"] == again.json()["id"]
    assert again.headers["idempotency-replayed"] == "true"
    job = first.json()
    assert (job["kind"], job["status"], job["labels"]) == ("hide", "queued", {"ticket": "7"})
    assert job["spec"]["method"]["name"] == "age"
    assert job["spec"]["recovery"] == {
        "weight": 0.1,
        "length": 4,
        "radius": 1.0,
        "start": 0.7,
        "steps": 1,
        "learning_rate": 0.02,
    }
    assert job["spec"]["evaluation"]["thresholds"]["rsr1"] == 0.7
    assert [j["id"] for j in client.get("/jobs", params={"kind": "hide"}).json()["items"]] == [job["id"]]
    assert client.post(f"/jobs/{job['id']}/cancel").json()["status"] == "cancelled"
    assert client.post(f"/jobs/{job['id']}/retry").json()["kind"] == "hide"


def test_a_dry_run_stores_nothing(tenant: Tenant):
    answer = tenant.http().post(
        "/jobs/hide", params={"dry_run": "true"}, json={"concepts": ["church"], "method": "naive"}
    )
    assert (answer.status_code, answer.json()["kind"], tenant.count()) == (200, "hide", 0)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"seal_to": "church"}, "seal_to"),
        ({"seal_to": "A" * 43 + "="}, "seal_to"),  # 32 zero bytes: a point of low order
        ({"method": "uce"}, "method"),
        ({"recovery": {"radius": 0}}, "recovery.radius"),
        ({"recovery": {"radius": 0.5}}, "recovery.start"),
        ({"base_job_id": "0b0d6f2e-6a43-4f0c-9d6b-2f6f5f6d9b11"}, "base_job_id"),
        ({"concepts": [{"name": "dog", "attributes": ["wolf", "cat"]}]}, "concepts[0].attributes"),
        ({"recovery": {"length": 65}}, "recovery.length"),
        ({"recovery": {"lenght": 5}}, "recovery.lenght"),
        ({"evaluation": {"thresholds": {"rsr1": 2}}}, "evaluation.thresholds.rsr1"),
    ],
)
def test_a_wrong_hide_request_names_its_field(tenant: Tenant, change: dict, field: str):
    assert field in errors(tenant.http().post("/jobs/hide", json={"concepts": ["church"], **change}))


def test_a_wrong_hide_request_is_told_what_would_be_right(tenant: Tenant):
    def said(**change: object) -> dict[str, str]:
        return errors(tenant.http().post("/jobs/hide", json={"concepts": ["church"], **change}))

    assert said(method="uce") == {
        "method": (
            "the method 'uce' is not available for this kind of job methods: naive, esd, all_but_one, ap, age"
        )
    }
    assert "did you mean 'age'" in said(method="agee")["method"]
    assert "did you mean 'length'" in said(recovery={"lenght": 5})["recovery.lenght"]
    assert "did you mean 'recovery'" in said(recovry={})["recovry"]
    assert said(base_job_id="0b0d6f2e-6a43-4f0c-9d6b-2f6f5f6d9b11") == {
        "base_job_id": "is not available for this kind of job omit it"
    }
    assert "key-pair" in said(seal_to="church")["seal_to"]


def test_an_erase_job_is_not_asked_for_recovery(tenant: Tenant):
    body = {"concepts": ["church"], "evaluation": {"thresholds": {"rsr1": 0.5}}}
    assert "evaluation.thresholds.rsr1" in errors(tenant.http().post("/jobs/erase", json=body))


def test_the_list_shows_the_key_to_those_who_may_not_read_it(
    tenant: Tenant, hidden: dict[str, str], key: str
):
    client = tenant.http(*EVERYONE)
    rows = {a["id"]: a for a in client.get(f"/jobs/{hidden['job']}/artifacts").json()["items"]}
    assert {a["name"]: a["kind"] for a in rows.values()} == {
        "recovery_key.safetensors": "recovery_key",
        "pytorch_lora_weights.safetensors": "file",
    }
    assert (rows[key]["sha256"], rows[key]["revoked_at"]) == (hashlib.sha256(KEY).hexdigest(), None)
    assert {a["kind"] for a in client.get(f"/jobs/{hidden['job']}").json()["artifacts"]} == {
        "file",
        "recovery_key",
    }


@pytest.mark.parametrize("verb", ["GET", "HEAD"])
def test_the_key_s_content_takes_keys_read_and_the_403_names_it(
    tenant: Tenant, hidden: dict[str, str], key: str, verb: str
):
    without = tenant.http(*EVERYONE)
    answer = without.request(verb, f"/artifacts/{key}/content")
    assert answer.status_code == 403
    assert 'scope="keys:read"' in answer.headers["www-authenticate"]
    if verb == "GET":
        assert "keys:read" in problem(answer, 403, "forbidden")["detail"]
    assert (
        without.request(verb, f"/artifacts/{hidden['pytorch_lora_weights.safetensors']}/content").status_code
        == 200
    )
    keeper = tenant.http("keys:read")
    assert keeper.request(verb, f"/artifacts/{key}/content").status_code == 200
    assert (
        keeper.request(verb, f"/artifacts/{hidden['pytorch_lora_weights.safetensors']}/content").status_code
        == 403
    )


def test_another_tenant_s_key_is_unknown(other: Tenant, key: str):
    for verb, path in (
        ("GET", f"/artifacts/{key}/content"),
        ("GET", f"/artifacts/{key}/reads"),
        ("DELETE", f"/artifacts/{key}"),
    ):
        problem(other.http().request(verb, path), 404, "not_found")


def test_every_read_is_noted_with_who_when_what_and_from_where(tenant: Tenant, key: str):
    keeper, admin = tenant.http("keys:read"), tenant.http("admin")
    whole = keeper.get(f"/artifacts/{key}/content")
    assert whole.content == KEY
    assert whole.headers["cache-control"] == "no-store"
    part = keeper.get(f"/artifacts/{key}/content", headers={"Range": "bytes=10-19"})
    assert part.content == KEY[10:20]
    rows = admin.get(f"/artifacts/{key}/reads").json()["items"]
    assert [(r["start"], r["stop"]) for r in rows] == [(10, 20), (0, len(KEY))]  # newest first
    assert rows[0]["request_id"] == part.headers["x-request-id"]
    assert rows[0]["address"] == "127.0.0.1"
    assert rows[0]["api_key"] == rows[1]["api_key"]
    assert rows[0]["api_key"]["name"] == "test"
    assert rows[0]["read_at"] >= rows[1]["read_at"]


def test_what_gives_no_byte_away_is_no_read(tenant: Tenant, key: str):
    keeper, admin = tenant.http("keys:read"), tenant.http("admin")
    etag = keeper.head(f"/artifacts/{key}/content").headers["etag"]
    assert keeper.get(f"/artifacts/{key}/content", headers={"If-None-Match": etag}).status_code == 304
    assert keeper.get(f"/artifacts/{key}/content", headers={"Range": "bytes=99999-"}).status_code == 416
    tenant.http(*EVERYONE).get(f"/artifacts/{key}/content")
    assert admin.get(f"/artifacts/{key}/reads").json() == {"items": [], "next_cursor": None}


def test_reads_come_in_pages_without_gap_or_repeat(tenant: Tenant, key: str):
    keeper, admin = tenant.http("keys:read"), tenant.http("admin")
    for i in range(5):
        keeper.get(f"/artifacts/{key}/content", headers={"Range": f"bytes={i}-{i}"})
    seen, cursor = [], None
    while True:
        page = admin.get(
            f"/artifacts/{key}/reads", params={"limit": 2} | ({"cursor": cursor} if cursor else {})
        ).json()
        seen += [r["start"] for r in page["items"]]
        if (cursor := page["next_cursor"]) is None:
            break
    assert seen == [4, 3, 2, 1, 0]
    assert "query.cursor" in errors(admin.get(f"/artifacts/{key}/reads", params={"cursor": "x"}))


def test_the_audit_and_the_revocation_take_admin(tenant: Tenant, key: str):
    client = tenant.http(*EVERYONE, "keys:read")
    assert "admin" in problem(client.get(f"/artifacts/{key}/reads"), 403, "forbidden")["detail"]
    assert "admin" in problem(client.delete(f"/artifacts/{key}"), 403, "forbidden")["detail"]
    assert stored(tenant, key).read_bytes() == KEY


def test_a_revoked_key_is_gone_for_good_and_its_audit_stays(tenant: Tenant, key: str):
    client = tenant.http()
    client.get(f"/artifacts/{key}/content")
    file = stored(tenant, key)
    revoked = client.delete(f"/artifacts/{key}")
    assert revoked.status_code == 200
    assert revoked.json()["revoked_at"]
    assert not file.exists()
    for _ in range(2):
        answer = problem(client.get(f"/artifacts/{key}/content"), 410, "recovery_key_revoked")
    assert "revoked" in answer["detail"]
    assert client.head(f"/artifacts/{key}/content").status_code == 410
    assert client.get(f"/artifacts/{key}").json()["revoked_at"] == revoked.json()["revoked_at"]
    assert client.delete(f"/artifacts/{key}").json()["revoked_at"] == revoked.json()["revoked_at"]
    assert len(client.get(f"/artifacts/{key}/reads").json()["items"]) == 1
    # The scope comes first
    problem(tenant.http("artifacts:read").get(f"/artifacts/{key}/content"), 403, "forbidden")


def test_only_the_reads_of_recovery_keys_are_listed_and_other_files_are_deleted_without_admin(
    tenant: Tenant, hidden: dict[str, str]
):
    client, delta = tenant.http(), hidden["pytorch_lora_weights.safetensors"]
    assert tenant.http("jobs:write").delete(f"/artifacts/{delta}").json()["revoked_at"] is None
    problem(
        tenant.http("jobs:write").delete(f"/artifacts/{hidden['recovery_key.safetensors']}"), 403, "forbidden"
    )
    problem(client.get(f"/artifacts/{delta}/reads"), 409, "wrong_state")
    client.get(f"/artifacts/{delta}/content")
    with db.transaction(tenant.database) as session:
        assert session.query(ArtifactRead).filter_by(artifact_id=uuid.UUID(delta)).count() == 0


def test_no_byte_leaves_when_the_read_cannot_be_noted(tenant: Tenant, postgres_url: str, key: str):
    """The audit comes before the answer: without its table, the key is not given away."""
    with db.transaction(postgres_url) as session:  # as the owner, which the service is not
        session.connection().exec_driver_sql("alter table artifact_reads rename to artifact_reads_away")
    try:
        answer = tenant.http("keys:read").get(f"/artifacts/{key}/content")
        assert answer.status_code >= 500
        assert KEY[:16] not in answer.content
    finally:
        with db.transaction(postgres_url) as session:
            session.connection().exec_driver_sql("alter table artifact_reads_away rename to artifact_reads")


def test_a_hide_job_s_delta_can_be_judged(tenant: Tenant, hidden: dict[str, str]):
    answer = tenant.http().post("/jobs/evaluate", json={"job_id": hidden["job"]})
    assert answer.status_code == 202, answer.text
    assert answer.json()["spec"]["concepts"][0]["name"] == "church"
    with db.transaction(tenant.database) as session:
        assert jobs.get(session, tenant.id, uuid.UUID(answer.json()["id"])).kind == "evaluate"
