"""What a client may delete, what stands in the way, and what is left."""

import io
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import httpx
import pytest
from PIL import Image
from sqlalchemy import text

from expunge.store import db
from expunge.store.blobs import Blobs
from expunge.store.errors import NotFound
from expunge.worker import sweeper
from tests.support.service import Tenant, errors, problem, serve
from tests.support.stored import keys_older_than


def png(colour: str, size: int = 64) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (size, size), colour).save(out, "PNG")
    return out.getvalue()


def upload(tenant: Tenant, colour: str = "red", name: str = "my-face.png", size: int = 64) -> dict:
    sent = {"content": png(colour, size), "headers": {"Content-Type": "image/png"}, "params": {"name": name}}
    answer = tenant.http().post("/artifacts", **sent)
    assert answer.status_code == 201, answer.text
    return answer.json()


def key_of(tenant: Tenant, artifact_id: str) -> str:
    with db.transaction(tenant.database) as session:
        return session.scalar(text("select key from artifacts where id = :id"), {"id": artifact_id})


def acts(tenant: Tenant, action: str) -> list[dict]:
    return tenant.http().get("/audit", params={"action": action}).json()["items"]


def gone(tenant: Tenant, key: str) -> bool:
    try:
        Blobs(tenant.settings.artifacts_url).size(key)
    except NotFound:
        return True
    return False


class TestArtifacts:
    def test_anonymous(self, anonymous, unknown_id):
        problem(anonymous.get("/artifacts"), 401, "unauthorized")
        problem(anonymous.delete(f"/artifacts/{unknown_id}"), 401, "unauthorized")
        problem(anonymous.delete(f"/jobs/{unknown_id}"), 401, "unauthorized")

    def test_uploads_are_listed_page_by_page_newest_first_and_are_one_s_own(self, tenant, other, tmp_path):
        tenant.finish(tenant.erase()["id"], {"a.bin": b"x"}, tmp_path)
        made = [upload(tenant, name=f"{n}.png")["id"] for n in range(3)]
        client, seen, cursor = tenant.http("artifacts:read"), [], None
        while True:
            page = client.get(
                "/artifacts", params={"limit": 2} | ({"cursor": cursor} if cursor else {})
            ).json()
            seen += [item["id"] for item in page["items"]]
            cursor = page["next_cursor"]
            if cursor is None:
                break
        assert seen == made[::-1]
        assert (
            client.get("/artifacts", params={"media_type": "application/octet-stream"}).json()["items"] == []
        )
        assert other.http().get("/artifacts").json()["items"] == []
        problem(tenant.http("jobs:read").get("/artifacts"), 403, "forbidden")

    def test_an_upload_is_deleted_with_its_name_and_the_audit_stays(self, tenant, other):
        made = upload(tenant)
        key = key_of(tenant, made["id"])
        problem(other.http().delete(f"/artifacts/{made['id']}"), 404, "not_found")
        problem(tenant.http("artifacts:read").delete(f"/artifacts/{made['id']}"), 403, "forbidden")
        client = tenant.http("jobs:write", "artifacts:read")
        first = client.delete(f"/artifacts/{made['id']}")
        assert first.status_code == 200, first.text
        assert first.json()["expired_at"] is not None
        assert client.delete(f"/artifacts/{made['id']}").json() == first.json()
        assert gone(tenant, key)
        problem(client.get(f"/artifacts/{made['id']}/content"), 410, "artifact_expired")
        assert client.get("/artifacts").json()["items"] == []
        assert "face" not in client.get(f"/artifacts/{made['id']}").text
        (act,) = acts(tenant, "artifact.deleted")
        assert act["target"]["id"] == made["id"]

    def test_no_job_is_made_of_a_deleted_upload(self, tenant):
        ids = [upload(tenant, colour)["id"] for colour in ("red", "green", "blue")]
        tenant.http().delete(f"/artifacts/{ids[1]}")
        found = errors(
            tenant.http().post(
                "/jobs/erase", json={"concepts": [{"name": "me", "images": ids}], "method": "uce"}
            )
        )
        assert "deleted" in found["concepts[0].images[1]"]

    def test_what_an_unfinished_job_needs_is_kept(self, tenant):
        ids = [upload(tenant, colour)["id"] for colour in ("red", "green", "blue")]
        job = tenant.erase(concepts=[{"name": "me", "images": ids}])
        found = problem(tenant.http().delete(f"/artifacts/{ids[0]}"), 409, "wrong_state")
        assert job["id"] in found["detail"]
        tenant.http().post(f"/jobs/{job['id']}/cancel")
        assert tenant.http().delete(f"/artifacts/{ids[0]}").status_code == 200

    def test_of_a_deletion_and_a_job_that_needs_the_upload_one_wins(self, tenant):
        """At once, many times: either the job is refused or the deletion is, never neither."""
        for _ in range(4):
            ids = [upload(tenant, colour)["id"] for colour in ("red", "green", "blue")]
            spec = {"concepts": [{"name": "me", "images": ids}], "method": "uce"}
            poster, deleter = tenant.http(), tenant.http()
            with ThreadPoolExecutor(2) as pool:
                job = pool.submit(poster.post, "/jobs/erase", json=spec)
                cut = pool.submit(deleter.delete, f"/artifacts/{ids[2]}")
                answers = (job.result().status_code, cut.result().status_code)
            assert answers in {(202, 409), (422, 200)}, answers

    def test_a_job_s_file_goes_and_its_row_stays(self, tenant, tmp_path):
        job = tenant.erase()
        one, two = tenant.finish(job["id"], {"a.bin": b"a", "b.bin": b"b"}, tmp_path)
        assert tenant.http().delete(f"/artifacts/{one.id}").status_code == 200
        assert gone(tenant, one.key)
        assert tenant.http().get(f"/artifacts/{two.id}/content").content == b"b"
        assert [a["name"] for a in tenant.http().get(f"/jobs/{job['id']}/artifacts").json()["items"]] == [
            "a.bin",
            "b.bin",
        ]


class TestJobs:
    def test_a_job_goes_with_its_request_events_and_bytes_and_the_audit_stays(self, tenant, other, tmp_path):
        job = tenant.erase(labels={"ticket": "7"})["id"]
        made = tenant.finish(job, {"a.bin": b"a", "recovery_key.safetensors": b"k"}, tmp_path)
        client = tenant.http()
        again = client.post(f"/jobs/{tenant_failed(tenant)}/retry")
        assert again.status_code == 202, again.text
        assert client.get(f"/artifacts/{made[1].id}/content").content == b"k"
        problem(other.http().delete(f"/jobs/{job}"), 404, "not_found")
        problem(tenant.http("jobs:read").delete(f"/jobs/{job}"), 403, "forbidden")
        assert client.delete(f"/jobs/{job}").status_code == 204
        problem(client.get(f"/jobs/{job}"), 404, "not_found")
        problem(client.delete(f"/jobs/{job}"), 404, "not_found")
        problem(client.get(f"/jobs/{job}/events"), 404, "not_found")
        assert all(gone(tenant, each.key) for each in made)
        assert [act["target"]["id"] for act in acts(tenant, "job.deleted")] == [job]
        assert len(client.get(f"/artifacts/{made[1].id}/reads").json()["items"]) == 1, (
            "who read a key is never forgotten"
        )
        with db.transaction(tenant.database) as session:
            left = session.scalar(
                text("select count(*) from deletions where key = any(:keys)"),
                {"keys": [each.key for each in made]},
            )
            assert left == 2, "noted until the sweep has seen that they are gone"
        sweeper.turn(tenant.settings)
        with db.transaction(tenant.database) as session:
            assert session.scalar(text("select count(*) from deletions")) == 0

    def test_a_job_that_runs_and_one_that_others_stand_on_stay(self, tenant, tmp_path):
        base = tenant.erase()["id"]
        problem(tenant.http().delete(f"/jobs/{base}"), 409, "wrong_state")
        tenant.finish(base, {"pytorch_lora_weights.safetensors": b"a"}, tmp_path)
        above = tenant.erase(concepts=["dog"], base_job_id=base)["id"]
        assert above in problem(tenant.http().delete(f"/jobs/{base}"), 409, "wrong_state")["detail"]
        tenant.finish(above, {"pytorch_lora_weights.safetensors": b"b"}, tmp_path)
        assert above in problem(tenant.http().delete(f"/jobs/{base}"), 409, "wrong_state")["detail"]
        assert [tenant.http().delete(f"/jobs/{each}").status_code for each in (above, base)] == [204, 204]

    def test_a_job_whose_repeat_is_there_goes_and_the_repeat_stays(self, tenant):
        old = tenant_failed(tenant)
        new = tenant.http().post(f"/jobs/{old}/retry").json()["id"]
        assert tenant.http().delete(f"/jobs/{old}").status_code == 204
        assert tenant.http().get(f"/jobs/{new}").json()["retried_from"] is None

    def test_bytes_that_a_kill_left_after_the_commit_are_deleted_by_the_sweep(
        self, tenant, tmp_path, monkeypatch
    ):
        job = tenant.erase()["id"]
        (made,) = tenant.finish(job, {"a.bin": b"a"}, tmp_path)
        with monkeypatch.context() as patched:
            patched.setattr(Blobs, "delete", lambda *_: None)  # as if the process had died here
            assert tenant.http().delete(f"/jobs/{job}").status_code == 204
        assert not gone(tenant, made.key)
        sweeper.turn(tenant.settings)
        assert gone(tenant, made.key)

    def test_a_job_whose_images_are_gone_is_not_retried(self, tenant):
        ids = [upload(tenant, colour)["id"] for colour in ("red", "green", "blue")]
        client, job = tenant.http(), tenant.erase(concepts=[{"name": "me", "images": ids}])["id"]
        tenant.fail(job, tenant.claim(job))
        assert client.delete(f"/artifacts/{ids[1]}").status_code == 200
        found = problem(client.post(f"/jobs/{job}/retry"), 409, "wrong_state")
        assert ids[1] in found["detail"]
        assert "deleted" in found["detail"]
        assert tenant.count() == 1


def tenant_failed(tenant: Tenant) -> str:
    job = tenant.erase()["id"]
    tenant.fail(job, tenant.claim(job))
    return job


class TestRoom:
    @pytest.fixture
    def small(self, settings):
        """A service whose tenants may store 400 bytes."""
        with serve(settings.model_copy(update={"max_bytes": 400})) as (url, app):
            yield Tenant(url, app.state.services.settings)

    def test_uploads_beyond_the_quota_are_refused_and_store_nothing(self, small):
        blobs = Blobs(small.settings.artifacts_url)
        sizes = [upload(small, colour)["size"] for colour in ("red", "green")]
        assert sum(sizes) <= 400 < sum(sizes) * 1.5
        before = set(keys_older_than(blobs, timedelta(hours=-1)))
        sent = {"content": png("blue"), "headers": {"Content-Type": "image/png"}}
        found = problem(small.http().post("/artifacts", **sent), 429, "quota_exceeded")
        assert "max_bytes" in found["detail"]
        assert set(keys_older_than(blobs, timedelta(hours=-1))) == before
        first = small.http().get("/artifacts").json()["items"][0]["id"]
        small.http().delete(f"/artifacts/{first}")
        assert small.http().post("/artifacts", **sent).status_code == 201

    def test_of_uploads_at_once_no_more_are_taken_than_fit(self, small):
        clients = [small.http() for _ in range(6)]

        def send(client) -> int:
            return client.post(
                "/artifacts", content=png("red"), headers={"Content-Type": "image/png"}
            ).status_code

        with ThreadPoolExecutor(6) as pool:
            answers = list(pool.map(send, clients))
        stored = small.http().get("/artifacts").json()["items"]
        assert sum(item["size"] for item in stored) <= 400
        assert answers.count(201) == len(stored) >= 1
        assert set(answers) == {201, 429}


class TestDryRuns:
    def test_images_that_are_still_to_be_uploaded_may_be_named_and_nothing_is_stored(self, tenant):
        images = [f"00000000-0000-0000-0000-{n:012}" for n in range(1, 4)]
        spec = {"concepts": [{"name": "me", "images": images}], "method": {"name": "uce"}}
        answer = tenant.http().post("/jobs/erase", params={"dry_run": "true"}, json=spec)
        assert answer.status_code == 200, answer.text
        assert tenant.http().get("/artifacts").json()["items"] == []
        assert acts(tenant, "artifact.uploaded") == []
        assert "concepts[0].images[0]" in errors(tenant.http().post("/jobs/erase", json=spec)), (
            "a job needs them"
        )
        spec["concepts"].append({"name": "you", "images": [str(uuid.uuid4()) for _ in range(3)]})
        assert "concepts[1].images[0]" in errors(
            tenant.http().post("/jobs/erase", params={"dry_run": "true"}, json=spec)
        )


def test_an_upload_whose_key_ends_while_its_bytes_come_is_refused_and_stores_nothing(tenant: Tenant):
    blobs, key = Blobs(tenant.settings.artifacts_url), tenant.key()
    before, content = set(keys_older_than(blobs, timedelta(hours=-1))), png("red")

    def slowly():
        yield content[:50]
        with db.transaction(tenant.database) as session:
            session.execute(
                text("update api_keys set revoked_at = now() where tenant_id = :id"), {"id": tenant.id}
            )
        yield content[50:]

    headers = {"Authorization": f"Bearer {key}", "Content-Type": "image/png"}
    problem(httpx.post(f"{tenant.url}/artifacts", content=slowly(), headers=headers), 401, "unauthorized")
    assert set(keys_older_than(blobs, timedelta(hours=-1))) == before
    assert tenant.http().get("/artifacts").json()["items"] == []
