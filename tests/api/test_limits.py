"""Quotas and rate limits: what a tenant, a key and an address without a key may ask for, over real API
processes and a real Redis.
"""

import re
import time
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import httpx
import pytest
from sqlalchemy.engine import make_url

from expunge.store import db, queue_pauses, tenants
from tests.support.service import SCRAPER, Tenant, fill_buckets, make_settings, problem, serve
from tests.support.tcp_proxy import Proxy

CHURCH = {"concepts": ["church"], "method": "uce"}


def fields(answer: httpx.Response) -> dict[str, tuple[int, int]]:
    """name -> (r, t) of the RateLimit field."""
    return {
        name: (int(r), int(t))
        for name, r, t in re.findall(r'"([a-z_]+)";r=(\d+);t=(\d+)', answer.headers["ratelimit"])
    }


class TestQuotas:
    def test_jobs_a_day_end_with_the_day(self, limited):
        with limited(max_jobs_a_day=2) as tenant:
            tenant.erase(), tenant.erase()
            answer = tenant.http().post("/jobs/erase", json=CHURCH)
            found = problem(answer, 429, "quota_exceeded")
            assert (
                found["detail"]
                == "You have reached max_jobs_a_day (2): wait for midnight UTC, when the next day begins."
            )
            assert 0 < int(answer.headers["retry-after"]) <= 86_400
            assert '"max_jobs_a_day";q=2;w=86400' in answer.headers["ratelimit-policy"]
            assert tenant.http().get("/queue").json()["jobs_today"] == 2, "what was refused is not counted"
            with db.transaction(tenant.database) as session:
                session.connection().exec_driver_sql("update usage set day = day - 1")
            tenant.erase()

    def test_a_retry_is_a_job_too(self, limited):
        with limited(max_jobs_a_day=1) as tenant:
            job = tenant.erase()["id"]
            client = tenant.http()
            client.post(f"/jobs/{job}/cancel")
            problem(client.post(f"/jobs/{job}/retry"), 429, "quota_exceeded")

    def test_what_is_invalid_or_repeated_costs_nothing(self, limited):
        with limited(max_jobs_a_day=1) as tenant:
            client = tenant.http()
            assert (
                client.post("/jobs/erase", json={**CHURCH, "base_job_id": str(uuid.uuid4())}).status_code
                == 422
            )
            assert client.post("/jobs/erase?dry_run=true", json=CHURCH).status_code == 200
            first = client.post("/jobs/erase", json=CHURCH, headers={"Idempotency-Key": "one"})
            again = client.post("/jobs/erase", json=CHURCH, headers={"Idempotency-Key": "one"})
            assert (first.status_code, again.status_code, again.json()["id"]) == (
                202,
                202,
                first.json()["id"],
            )

    @pytest.mark.parametrize("quota", ["max_active_jobs", "max_jobs_a_day"])
    def test_two_services_at_once_accept_no_more_than_the_quota(
        self, postgres_url: str, redis_url: str, tmp_path: Path, quota: str
    ):
        settings = make_settings(postgres_url, redis_url, tmp_path, **{quota: 7})
        with serve(settings) as (first, _), serve(settings) as (second, _):
            tenant, barrier = Tenant(first, settings), Barrier(12)
            headers = {"Authorization": f"Bearer {tenant.key()}"}

            def post(i: int) -> list[int]:
                barrier.wait()
                with httpx.Client(base_url=(first, second)[i % 2], headers=headers, timeout=60) as client:
                    return [client.post("/jobs/erase", json=CHURCH).status_code for _ in range(3)]

            with ThreadPoolExecutor(12) as pool:
                answers = Counter(status for statuses in pool.map(post, range(12)) for status in statuses)
            assert answers == {202: 7, 429: 29}
            assert tenant.count() == 7

    def test_a_tenant_s_own_numbers_come_before_the_service_s(self, limited):
        with limited(max_active_jobs=1) as tenant:
            with db.transaction(tenant.database) as session:
                name = (
                    session.connection()
                    .exec_driver_sql("select name from tenants where id = %s", (tenant.id,))
                    .scalar()
                )
                tenants.set_quotas(session, name, {"max_active_jobs": 2, "max_running_jobs": 5})
            tenant.erase(), tenant.erase()
            problem(tenant.http().post("/jobs/erase", json=CHURCH), 429, "quota_exceeded")
            quotas = tenant.http().get("/queue").json()["quotas"]
            assert quotas == {
                "max_active_jobs": 2,
                "max_running_jobs": 5,
                "max_jobs_a_day": None,
                "max_bytes": None,
            }
            (entry,) = tenant.http().get("/audit", params={"action": "tenant.changed"}).json()["items"]
            assert (entry["api_key"], entry["details"]) == (
                None,
                {"max_active_jobs": 2, "max_running_jobs": 5},
            )


class TestRates:
    def test_reads_and_writes_of_a_key_have_buckets_of_their_own(self, limited):
        with limited(reads_per_minute=5, writes_per_minute=2) as tenant:
            client = tenant.http()
            assert fields(client.get("/jobs")) == {"reads": (4, 12)}
            for left in (3, 2, 1, 0):
                assert fields(client.get("/jobs"))["reads"][0] == left
            answer = client.get("/jobs")
            problem(answer, 429, "too_many_requests")
            assert answer.headers["ratelimit-policy"] == '"reads";q=5;w=60'
            assert 0 < int(answer.headers["retry-after"]) <= 12
            assert client.post("/jobs/erase", json=CHURCH).status_code == 202
            assert client.post("/jobs/erase", json=CHURCH).status_code == 202
            problem(client.post("/jobs/erase", json=CHURCH), 429, "too_many_requests")

    def test_a_tenant_s_keys_share_its_buckets_and_another_tenant_has_its_own(self, limited):
        with limited(reads_per_minute=5, writes_per_minute=2) as tenant:
            answers = [tenant.http().get("/jobs").status_code for _ in range(7)]
            assert answers == [200] * 5 + [429] * 2
            assert [tenant.http().post("/jobs/erase", json=CHURCH).status_code for _ in range(3)] == [
                202,
                202,
                429,
            ]
            assert Tenant(tenant.url, tenant.settings).http().get("/jobs").status_code == 200

    def test_tokens_come_back_with_time(self, limited):
        with limited(reads_per_minute=60) as tenant:
            client = tenant.http()
            answers = [client.get("/queue") for _ in range(200)]
            refused = [answer for answer in answers if answer.status_code == 429]
            assert refused
            assert [a.status_code for a in answers[:60]] == [200] * 60
            time.sleep(int(refused[-1].headers["retry-after"]))
            assert client.get("/queue").status_code == 200

    def test_two_services_share_a_key_s_bucket(self, limited):
        with limited(reads_per_minute=6) as first, serve(first.settings) as (second, _):
            headers = {"Authorization": f"Bearer {first.key()}"}
            answers = [
                httpx.get(f"{url}/jobs", headers=headers).status_code for url in (first.url, second) * 6
            ]
            assert answers[:6] == [200] * 6
            assert 429 in answers[6:], "each service by itself would have let all twelve through"

    def test_wrong_keys_are_limited_by_address_and_right_ones_from_there_are_not(self, limited):
        with limited(strangers_per_minute=4) as tenant:
            wrong = {"Authorization": "Bearer nonsense"}
            answers = [httpx.get(f"{tenant.url}/jobs", headers=wrong) for _ in range(6)]
            assert [a.status_code for a in answers] == [401] * 4 + [429] * 2
            problem(answers[-1], 429, "too_many_requests")
            problem(httpx.get(f"{tenant.url}/docs"), 429, "too_many_requests")
            assert httpx.get(f"{tenant.url}/healthz").status_code == 200
            assert httpx.get(f"{tenant.url}/readyz").status_code == 200
            assert tenant.http().get("/jobs").status_code == 200

    def test_without_redis_everything_is_let_through_and_counted(
        self, postgres_url: str, redis_url: str, tmp_path: Path
    ):
        """F7's other half: a limit never costs an accepted job."""
        fill_buckets(redis_url)
        parsed = make_url(redis_url)
        proxy = Proxy(str(parsed.host), int(parsed.port or 0))
        url = parsed.set(port=proxy.port).render_as_string(hide_password=False)
        settings = make_settings(postgres_url, url, tmp_path, rate_limits=True, writes_per_minute=1)
        try:
            with serve(settings) as (where, _):
                tenant = Tenant(where, settings)
                assert tenant.http().get("/jobs").status_code == 200
                proxy.cut()
                another = Tenant(where, settings).http()
                assert [another.post("/jobs/erase", json=CHURCH).status_code for _ in range(3)] == [202] * 3
                assert (
                    "expunge_rate_limit_failures_total 1.0"
                    in httpx.get(f"{where}/metrics", headers=SCRAPER).text
                )
        finally:
            proxy.close()

    def test_the_off_switch(self, limited):
        with limited(rate_limits=False, reads_per_minute=1, strangers_per_minute=1) as tenant:
            client = tenant.http()
            answers = [client.get("/jobs") for _ in range(4)]
            assert [a.status_code for a in answers] == [200] * 4
            assert "ratelimit" not in answers[0].headers

    def test_a_refusal_is_counted_by_its_limit(self, limited):
        with limited(strangers_per_minute=1) as tenant:
            for _ in range(3):
                httpx.get(f"{tenant.url}/jobs")
            assert (
                'expunge_rate_limited_total{policy="strangers"} 2.0'
                in httpx.get(f"{tenant.url}/metrics", headers=SCRAPER).text
            )


class TestQueue:
    def test_anonymous_readers_and_writers_cannot_pause(self, tenant: Tenant, anonymous: httpx.Client):
        for path in ("/queue/pause", "/queue/resume"):
            problem(anonymous.post(path), 401, "unauthorized")
            problem(tenant.http("jobs:read", "jobs:write").post(path), 403, "forbidden")

    def test_a_pause_is_the_tenant_s_own_and_is_seen_and_audited(self, tenant: Tenant, other: Tenant):
        admin = tenant.http("admin")
        paused = admin.post("/queue/pause", json={"hand_over": True, "reason": "new models"}).json()
        assert (paused["state"], paused["pause"]["hand_over"], paused["pause"]["reason"]) == (
            "paused",
            True,
            "new models",
        )
        assert tenant.http("jobs:read").get("/queue").json() == paused
        assert other.http().get("/queue").json()["state"] == "running"
        assert tenant.erase()["status"] == "queued"
        again = admin.post("/queue/pause").json()["pause"]
        assert again == {**paused["pause"], "hand_over": False, "reason": ""}, "since when stays"
        assert admin.post("/queue/resume").json()["state"] == "running"
        assert admin.post("/queue/resume").json()["jobs"] == {"queued": 1, "running": 0, "cancelling": 0}
        acts = [
            item["action"] for item in admin.get("/audit", params={"target": str(tenant.id)}).json()["items"]
        ]
        assert acts == ["queue.resumed", "queue.paused", "queue.paused"]
        assert [
            i["action"]
            for i in other.http().get("/audit").json()["items"]
            if i["action"].startswith("queue.")
        ] == []

    def test_the_service_s_pause_is_the_operator_s_alone(self, tenant: Tenant):
        try:
            with db.transaction(tenant.database) as session:
                queue_pauses.pause(session, None, reason="new disks")
            seen = tenant.http().post("/queue/resume").json()
            assert (seen["state"], seen["pause"], seen["maintenance"]["reason"]) == (
                "paused",
                None,
                "new disks",
            )
            time.sleep(1)  # readiness is looked at once a second
            assert httpx.get(f"{tenant.url}/readyz").json()["checks"]["queue"] == "paused"
            assert "expunge_queue_paused 1.0" in httpx.get(f"{tenant.url}/metrics").text
            assert tenant.erase()["status"] == "queued"
            (entry,) = [
                i for i in tenant.http().get("/audit").json()["items"] if i["action"] == "queue.paused"
            ]
            assert (entry["api_key"], entry["details"]["whole_service"]) == (None, True)
        finally:
            with db.transaction(tenant.database) as session:
                queue_pauses.resume(session, None)
        time.sleep(1)  # readiness is looked at once a second
        assert httpx.get(f"{tenant.url}/readyz").json()["checks"]["queue"] == "running"
