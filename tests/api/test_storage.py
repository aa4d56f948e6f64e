"""Links, retention and verification of artifacts."""

import uuid
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
import pytest
from sqlalchemy import text

from expunge.api import signed_urls
from expunge.store import artifacts, db, keys
from expunge.store.blobs import Blobs
from expunge.store.errors import NotFound
from expunge.worker import sweeper, verifier
from tests.support.service import Tenant, errors, problem, serve


def shifted(tenant: Tenant, artifact_id: object, column: str, by: str) -> None:
    """Move one of an artifact's times."""
    with db.transaction(tenant.database) as session:
        session.execute(
            text(f"update artifacts set {column} = {column} - interval '{by}' where id = :id"),
            {"id": artifact_id},
        )


class TestLinks:
    def test_anonymous(self, anonymous, tenant, tmp_path):
        (made,) = tenant.finish(tenant.erase()["id"], {"a.bin": b"x"}, tmp_path)
        problem(anonymous.post(f"/artifacts/{made.id}/link"), 401, "unauthorized")

    def test_it_gives_the_bytes_and_their_ranges_without_a_key(self, anonymous, tenant, tmp_path):
        (made,) = tenant.finish(tenant.erase()["id"], {"a.bin": b"0123456789"}, tmp_path)
        answer = tenant.http("artifacts:read").post(f"/artifacts/{made.id}/link")
        assert answer.status_code == 200, answer.text
        url = answer.json()["url"]
        assert anonymous.get(url).content == b"0123456789"
        assert anonymous.get(url, headers={"Range": "bytes=2-3"}).content == b"23"
        left = datetime.fromisoformat(answer.json()["expires_at"]) - datetime.now(UTC)
        assert timedelta(minutes=14) < left <= timedelta(minutes=15)

    def test_nothing_about_it_can_be_changed(self, anonymous, tenant, tmp_path):
        one, two = tenant.finish(tenant.erase()["id"], {"a.bin": b"a", "b.bin": b"b"}, tmp_path)
        url = tenant.http().post(f"/artifacts/{one.id}/link").json()["url"]
        parts = urlsplit(url)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        for change in (
            {"expires": str(int(query["expires"]) + 1)},
            {"sig": "0" * 64},
            {"by": str(uuid.uuid4())},
            {"sig": "é"},
            {"expires": "x"},
        ):
            problem(anonymous.get(f"{parts.path}?{urlencode(query | change)}"), 403, "link_expired")
        problem(anonymous.get(url.replace(str(one.id), str(two.id))), 403, "link_expired")
        problem(anonymous.get(f"/artifacts/{one.id}?{parts.query}"), 401, "unauthorized")
        problem(anonymous.delete(url), 401, "unauthorized")

    def test_it_ends_with_its_time_and_with_the_key_that_asked_for_it(
        self, anonymous, tenant, settings, tmp_path
    ):
        (made,) = tenant.finish(tenant.erase()["id"], {"a.bin": b"a"}, tmp_path)
        with db.transaction(tenant.database) as session:
            row, token = keys.create(session, settings.secret.get_secret_value(), tenant.id, name="short")
        past = signed_urls.create_link(
            settings.secret.get_secret_value(), made.id, row.id, datetime.now(UTC) - timedelta(seconds=1)
        )
        problem(anonymous.get(past), 403, "link_expired")
        url = anonymous.post(
            f"/artifacts/{made.id}/link",
            headers={"Authorization": f"Bearer {token}"},
            json={"lifetime_s": 60},
        ).json()["url"]
        assert anonymous.get(url).content == b"a"
        with db.transaction(tenant.database) as session:
            keys.revoke(session, tenant.id, row.id)
        problem(anonymous.get(url), 403, "link_expired")

    def test_it_lasts_fifteen_minutes_at_most(self, tenant, tmp_path):
        (made,) = tenant.finish(tenant.erase()["id"], {"a.bin": b"a"}, tmp_path)
        assert "lifetime_s" in errors(
            tenant.http().post(f"/artifacts/{made.id}/link", json={"lifetime_s": 901})
        )

    def test_strangers_and_other_scopes_get_none(self, tenant, other, unknown_id, tmp_path):
        (made,) = tenant.finish(tenant.erase()["id"], {"a.bin": b"a"}, tmp_path)
        for artifact_id in (made.id, unknown_id):
            problem(other.http().post(f"/artifacts/{artifact_id}/link"), 404, "not_found")
        problem(tenant.http("jobs:read").post(f"/artifacts/{made.id}/link"), 403, "forbidden")

    def test_a_recovery_key_gets_none(self, tenant, tmp_path):
        (made,) = tenant.finish(tenant.erase()["id"], {"recovery_key.safetensors": b"k"}, tmp_path)
        assert (
            "keys:read"
            in problem(tenant.http().post(f"/artifacts/{made.id}/link"), 409, "wrong_state")["detail"]
        )

    def test_a_link_to_a_recovery_key_that_was_signed_all_the_same_gives_nothing(
        self, anonymous, tenant, settings, tmp_path
    ):
        (made,) = tenant.finish(tenant.erase()["id"], {"recovery_key.safetensors": b"k"}, tmp_path)
        with db.transaction(tenant.database) as session:
            row, _ = keys.create(session, settings.secret.get_secret_value(), tenant.id, name="all")
        problem(
            anonymous.get(
                signed_urls.create_link(
                    settings.secret.get_secret_value(), made.id, row.id, signed_urls.expiry(60)
                )
            ),
            403,
            "forbidden",
        )

    def test_with_s3_it_leads_to_s3_for_that_object_alone(self, settings, bucket, tmp_path):
        with serve(settings.model_copy(update={"artifacts_url": bucket})) as (url, app):
            tenant = Tenant(url, app.state.services.settings)
            (made,) = tenant.finish(tenant.erase()["id"], {"a.bin": b"from s3"}, tmp_path)
            link = tenant.http().post(f"/artifacts/{made.id}/link", json={"lifetime_s": 120}).json()["url"]
            assert (
                tenant.http().get(f"/artifacts/{made.id}/content", headers={"Range": "bytes=5-"}).content
                == b"s3"
            )
        assert not link.startswith(url)
        assert urlsplit(link).path.endswith(made.key)
        assert parse_qs(urlsplit(link).query)["X-Amz-Expires"] == ["120"]
        assert httpx.get(link).content == b"from s3"


class TestRetention:
    @pytest.fixture
    def sweep(self, settings):
        return lambda **more: sweeper.turn(settings.model_copy(update={"retention_days": 30, **more}))

    def test_old_artifacts_answer_410_and_their_rows_stay(self, tenant, settings, sweep, tmp_path):
        old, new = (tenant.finish(tenant.erase()["id"], {"a.bin": b"a"}, tmp_path)[0] for _ in range(2))
        shifted(tenant, old.id, "created_at", "31 days")
        sweep()
        sweep()
        client, blobs = tenant.http(), Blobs(settings.artifacts_url)
        found = problem(client.get(f"/artifacts/{old.id}/content"), 410, "artifact_expired")
        assert "a.bin" in found["detail"]
        problem(client.post(f"/artifacts/{old.id}/link"), 410, "artifact_expired")
        assert client.get(f"/artifacts/{old.id}").json()["expired_at"] is not None
        with pytest.raises(NotFound):
            blobs.size(old.key)
        assert client.get(f"/artifacts/{new.id}/content").content == b"a"
        assert client.get(f"/artifacts/{new.id}").json()["expired_at"] is None

    def test_no_job_builds_on_what_is_gone(self, tenant, sweep, tmp_path):
        job = tenant.erase()
        (made,) = tenant.finish(job["id"], {"pytorch_lora_weights.safetensors": b"a"}, tmp_path)
        shifted(tenant, made.id, "created_at", "31 days")
        sweep()
        answer = tenant.http().post(
            "/jobs/erase", json={"concepts": ["dog"], "method": "uce", "base_job_id": job["id"]}
        )
        assert f"POST the spec of GET /jobs/{job['id']}" in errors(answer)["base_job_id"]

    def test_recovery_keys_and_uploads_stay_unless_asked(self, tenant, sweep, tmp_path):
        (key,) = tenant.finish(tenant.erase()["id"], {"recovery_key.safetensors": b"k"}, tmp_path)
        shifted(tenant, key.id, "created_at", "31 days")
        sweep()
        assert tenant.http().get(f"/artifacts/{key.id}/content").content == b"k"
        sweep(retain_keys=False)
        problem(tenant.http().get(f"/artifacts/{key.id}/content"), 410, "artifact_expired")

    def test_nothing_is_deleted_without_the_setting(self, tenant, settings, tmp_path):
        (made,) = tenant.finish(tenant.erase()["id"], {"a.bin": b"a"}, tmp_path)
        shifted(tenant, made.id, "created_at", "3000 days")
        sweeper.turn(settings)
        assert tenant.http().get(f"/artifacts/{made.id}/content").content == b"a"


class TestAway:
    def test_an_s3_that_does_not_answer_is_a_503_and_the_job_s_page_still_works(
        self, settings, bucket, monkeypatch, tmp_path
    ):
        with serve(settings.model_copy(update={"artifacts_url": bucket})) as (url, app):
            tenant = Tenant(url, app.state.services.settings)
            job = tenant.erase()
            (made,) = tenant.finish(job["id"], {"a.bin": b"a"}, tmp_path)
            monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
            found = tenant.http().get(f"/artifacts/{made.id}/content")
            problem(found, 503, "unavailable")
            assert found.headers["retry-after"]
            assert tenant.http().get(f"/jobs/{job['id']}").json()["status"] == "succeeded"


class TestVerification:
    @pytest.fixture
    def damaged(self, tenant, settings, tmp_path):
        """(row, path of its bytes): damaged, and due to be looked at."""
        (made,) = tenant.finish(tenant.erase()["id"], {"a.bin": b"whole"}, tmp_path)
        path = Blobs(settings.artifacts_url).folder / made.key
        path.write_bytes(b"wholf")
        shifted(tenant, made.id, "verified_at", "8 days")
        return made, path

    def test_the_verifier_flags_damage_and_takes_the_flag_back(self, tenant, settings, damaged):
        made, path = damaged
        client = tenant.http()
        verifier.turn(settings)
        since = client.get(f"/artifacts/{made.id}").json()["corrupt_at"]
        assert since is not None
        shifted(tenant, made.id, "verified_at", "8 days")
        path.unlink()
        verifier.turn(settings)
        assert client.get(f"/artifacts/{made.id}").json()["corrupt_at"] == since, "since it was first seen"
        shifted(tenant, made.id, "verified_at", "8 days")
        path.write_bytes(b"whole")
        verifier.turn(settings)
        assert client.get(f"/artifacts/{made.id}").json()["corrupt_at"] is None

    def test_a_download_flags_what_it_refuses(self, tenant, damaged):
        made, _ = damaged
        client = tenant.http()
        problem(client.get(f"/artifacts/{made.id}/content"), 500, "artifact_corrupt")
        problem(client.post(f"/artifacts/{made.id}/link"), 500, "artifact_corrupt")
        assert client.get(f"/artifacts/{made.id}").json()["corrupt_at"] is not None

    @pytest.mark.parametrize("column", ["revoked_at", "expired_at"])
    def test_what_is_deleted_while_the_verifier_looks_at_it_is_not_damaged(self, tenant, damaged, column):
        """The verifier has listed it, then its bytes go on purpose."""
        made, path = damaged
        path.unlink()
        with db.transaction(tenant.database) as session:
            before = artifacts.count_corrupt(session)
            session.execute(text(f"update artifacts set {column} = now() where id = :id"), {"id": made.id})
            artifacts.record_check(session, made.id, whole=False)
            assert artifacts.count_corrupt(session) == before
            session.execute(text("update artifacts set corrupt_at = now() where id = :id"), {"id": made.id})
            assert artifacts.count_corrupt(session) == before, "flagged before it was deleted"
            assert made.id not in {
                row.id for row in artifacts.list_unverified(session, timedelta(days=7), 1000)
            }

    def test_only_what_is_due_is_hashed(self, tenant, settings, tmp_path):
        (made,) = tenant.finish(tenant.erase()["id"], {"a.bin": b"whole"}, tmp_path)
        (Blobs(settings.artifacts_url).folder / made.key).unlink()
        verifier.turn(settings)
        assert tenant.http().get(f"/artifacts/{made.id}").json()["corrupt_at"] is None
