"""Prompt sets: uploaded as they are, refused line by line, named by jobs, and counted."""

import json
import uuid

import pytest

from tests.support.service import Tenant, errors, make_settings, problem, serve

CSV = b'prompt,sd_seed,sd_guidance_scale,categories\r\na church,7,7.5,hate\r\n"a, b",8,3,\r\n'


def upload(tenant: Tenant, content: bytes, media_type: str = "text/csv", **query: str):
    return tenant.http().post(
        "/artifacts", params=query, content=content, headers={"Content-Type": media_type}
    )


@pytest.mark.parametrize(
    ("content", "sent", "stored", "name"),
    [
        (CSV, "text/csv; charset=utf-8", "text/csv", "prompts.csv"),
        (b'{"prompt": "a"}\n', "application/jsonl", "application/jsonl", "prompts.jsonl"),
        (b'{"prompt": "a"}\n', "application/x-ndjson", "application/jsonl", "prompts.jsonl"),
        (b'\xef\xbb\xbf\n{"prompt": "a"}', "text/csv", "application/jsonl", "prompts.jsonl"),
    ],
)
def test_a_set_is_stored_as_it_is(tenant: Tenant, content: bytes, sent: str, stored: str, name: str):
    answer = upload(tenant, content, sent)
    assert answer.status_code == 201, answer.text
    assert (answer.json()["media_type"], answer.json()["name"]) == (stored, name)
    assert tenant.http().get(answer.headers["location"] + "/content").content == content
    listed = tenant.http().get("/artifacts", params={"media_type": stored}).json()["items"]
    assert [item["id"] for item in listed] == [answer.json()["id"]]


def test_a_bad_set_is_refused_with_each_bad_line(tenant: Tenant):
    found = problem(upload(tenant, b"prompt,seed\na,1\n,2\nb,x\n"), 422, "prompt_set_unusable")
    assert [e["field"] for e in found["errors"]] == ["body", "body"]
    assert [e["message"].partition(":")[0] for e in found["errors"]] == ["line 3", "line 4"]
    assert "(and 1 more)" in found["detail"]
    problem(upload(tenant, b"", "application/jsonl"), 422, "prompt_set_unusable")
    problem(upload(tenant, b"prompt\n" + b"a" * (8 << 20)), 413, "payload_too_large")
    assert tenant.http().get("/artifacts").json()["items"] == []


def asked(name: str) -> dict:
    return {"concepts": ["church"], "method": "uce", "evaluation": {"prompts": name}}


def test_a_job_names_an_uploaded_set_which_stays_while_it_needs_it(tenant: Tenant):
    id_ = upload(tenant, CSV).json()["id"]
    job = tenant.erase(evaluation={"prompts": id_.upper()})
    assert job["spec"]["evaluation"]["prompts"] == id_
    problem(tenant.http().delete(f"/artifacts/{id_}"), 409, "wrong_state")
    client = tenant.http()
    assert client.post(f"/jobs/{job['id']}/cancel").status_code in (200, 202)
    assert client.delete(f"/artifacts/{id_}").status_code in (200, 204)
    assert "was deleted" in errors(client.post("/jobs/erase", json=asked(id_)))["evaluation.prompts"]


def test_what_is_no_set_of_the_tenant_is_refused(tenant: Tenant, settings, service: str):
    client, other = tenant.http(), Tenant(service, settings)
    foreign = upload(other, CSV).json()["id"]
    for name, words in (
        (foreign, "there is no prompt set"),
        (str(uuid.uuid4()), "there is no prompt set"),
        ("i2p", "prompt sets: none"),
        ("a/b", "neither an id nor a name"),
    ):
        found = errors(client.post("/jobs/erase", json=asked(name)))
        assert words in found["evaluation.prompts"], found
    for each in other.clients:
        each.close()
    # Only a dry run may name what is yet to be uploaded
    to_come = asked("00000000-0000-0000-0000-00000000ffff")
    assert client.post("/jobs/erase?dry_run=true", json=to_come).status_code == 200
    assert "evaluation.prompts" in errors(client.post("/jobs/erase", json=to_come))
    # A set is no delta
    evaluated = {"concepts": ["church"], "artifact_id": upload(tenant, CSV).json()["id"]}
    assert "not a delta" in errors(client.post("/jobs/evaluate", json=evaluated))["artifact_id"]


def test_named_sets_and_the_rows_of_both_count_towards_the_maximum(
    postgres_url: str, redis_url: str, tmp_path
):
    rows = "".join(json.dumps({"prompt": f"a church {i}"}) + "\n" for i in range(300))
    (tmp_path / "many.jsonl").write_text(rows)
    (tmp_path / "few.csv").write_bytes(CSV)
    (tmp_path / "bad.csv").write_bytes(b"seed\n1\n")
    sets = {name.partition(".")[0]: str(tmp_path / name) for name in ("many.jsonl", "few.csv", "bad.csv")}
    given = {"max_pictures": 1100, "prompt_sets": sets | {"gone": "/nowhere.csv"}}
    with serve(make_settings(postgres_url, redis_url, tmp_path / "artifacts", **given)) as (url, app):
        tenant = Tenant(url, app.state.services.settings)
        client = tenant.http()
        assert client.post("/jobs/erase", json=asked("few")).status_code == 202
        for name in ("many", upload(tenant, rows.encode(), "application/jsonl").json()["id"]):
            found = errors(client.post("/jobs/erase", json=asked(name)))
            assert "600 of them by this field" in found["evaluation.prompts"]
        for name, words in (("bad", "no column 'prompt'"), ("gone", "cannot be read"), ("x", "many, few")):
            assert words in errors(client.post("/jobs/erase", json=asked(name)))["evaluation.prompts"]
        client.close()
