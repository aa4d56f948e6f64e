"""Webhooks against a real little HTTP server: what is sent, to whom, and in which turn."""

import base64
import hashlib
import hmac
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import text
from standardwebhooks import Webhook as Verifier

from expunge.store import attempts, db, jobs, webhook_deliveries, webhooks
from expunge.store.models import Job
from expunge.store.queue_recovery import reap
from expunge.worker import sweeper
from expunge.worker.webhooks import Deliverer
from tests.support.cluster import until
from tests.support.webhook_receiver import receiving, silent
from tests.support.webhooks import LEASE, SECRET, Actor, all_deliveries, end, errors, hook, run, settings, url

__all__ = ["end", "hook", "settings", "url"]


# What is sent


def test_a_job_s_end_is_told_thinly_and_signed_over_the_bytes_sent(settings, hook, end):
    with receiving() as receiver:
        _, secret = hook(receiver.url(path="/hook?to=us"))
        job_id = end()
        [delivery] = run(settings)
    [got] = receiver.got
    assert (delivery.status, errors(delivery)) == ("delivered", [(200, None)])
    assert got.path == "/hook?to=us"
    assert got.headers["content-type"] == "application/json"
    assert got.headers["host"] == f"127.0.0.1:{receiver.port}"
    message = Verifier(secret).verify(got.body, got.headers)
    assert message == {
        "type": "job.succeeded",
        "timestamp": message["timestamp"],
        "data": {
            "job_id": str(job_id),
            "kind": "erase",
            "policy": None,
            "status": "succeeded",
            "verdict": "not shown",
            "passed": None,
            "causes": ["few_pictures"],
            "delivery": "marked",
            "artifact_sha256": "ab" * 32,
        },
    }
    assert datetime.fromisoformat(message["timestamp"]).tzinfo is not None
    assert b"secret concept" not in got.body
    assert b"hush" not in got.body
    assert len(got.body) < 20_000
    signed = f"{got.headers['webhook-id']}.{got.headers['webhook-timestamp']}.".encode() + got.body
    by_hand = hmac.new(base64.b64decode(secret.removeprefix("whsec_")), signed, hashlib.sha256).digest()
    assert got.headers["webhook-signature"] == "v1," + base64.b64encode(by_hand).decode()
    assert "." not in got.headers["webhook-id"]


def test_the_ten_lines_of_the_documentation_verify_what_we_send(settings, hook, end):
    page = (Path(__file__).parents[2] / "docs/webhooks.md").read_text()
    code = page.split("```python\n")[1].split("```")[0]
    scope: dict = {}
    exec(code, scope)
    with receiving() as receiver:
        _, secret = hook(receiver.url())
        end()
        run(settings)
    [got] = receiver.got
    assert scope["verify"](secret, got.headers, got.body)["type"] == "job.succeeded"
    late = {**got.headers, "webhook-timestamp": "1"}
    for headers, body in (
        (got.headers, got.body + b" "),
        (late, got.body),
        ({**got.headers, "webhook-id": "msg_x"}, got.body),
    ):
        with pytest.raises(ValueError, match="webhook"):
            scope["verify"](secret, headers, body)


def test_while_a_secret_is_rotated_each_message_has_both_signatures(settings, hook, end, url, tenant):
    with receiving() as receiver:
        row, old = hook(receiver.url())
        with db.transaction(url) as session:
            actor = Actor(session.scalar(text("select id from api_keys limit 1")))
            _, new = webhooks.rotate(
                session, tenant.id, row.id, actor, secret=SECRET, overlap=timedelta(hours=1)
            )
        end()
        run(settings)
        with db.transaction(url) as session:
            session.execute(text("update webhooks set previous_until = now() - interval '1 s'"))
        end()
        run(settings)
    during, after = receiver.got
    assert len(during.headers["webhook-signature"].split()) == 2
    assert len(after.headers["webhook-signature"].split()) == 1
    for secret, message in ((old, during), (new, during), (new, after)):
        Verifier(secret).verify(message.body, message.headers)
    with pytest.raises(Exception, match="No matching signature"):
        Verifier(old).verify(after.body, after.headers)


def test_every_sort_of_end_is_told_once_and_only_to_who_asked(settings, hook, url, tenant, other_tenant):
    everything, _ = hook("http://127.0.0.1:1/")
    failures, _ = hook("http://127.0.0.1:1/", events=("job.failed",))
    hook("http://127.0.0.1:1/", enabled=False)

    def job(**facts: object) -> Job:
        return jobs.create_job(session, tenant.id, "erase", {}, **facts)  # type: ignore[arg-type]

    def claimed(id_: uuid.UUID) -> Job:
        found = attempts.claim(session, id_, owner="test", lease=LEASE)
        assert found is not None
        return found

    with db.transaction(url) as session:
        ok, bad, stopped, waiting, late = (job(queue_timeout_s=1) for _ in range(5))
        lost = job(max_attempts=1)
        jobs.create_job(session, other_tenant.id, "erase", {}, queue_timeout_s=1)
        attempts.publish(session, ok.id, claimed(ok.id).fence, [], verdict=None, progress=None)
        attempts.fail(
            session, bad.id, claimed(bad.id).fence, code="x", message="a concept's name", retryable=True
        )
        fence = claimed(stopped.id).fence
        jobs.cancel(session, tenant.id, stopped.id)
        attempts.confirm_cancelled(session, stopped.id, fence)
        jobs.cancel(session, tenant.id, waiting.id)
        claimed(lost.id)
    with db.transaction(url) as session:
        session.execute(
            text(
                "update jobs set queue_deadline_at = now() - interval '1 s', lease_expires_at = now() -"
                " interval '1 s'"
            )
        )
    with db.transaction(url) as session:
        reap(session, backoff=0)
    told = {(d.webhook_id, d.job_id, d.event) for d in all_deliveries(url)}
    ends = [
        (ok, "succeeded"),
        (bad, "failed"),
        (stopped, "cancelled"),
        (waiting, "cancelled"),
        (late, "expired"),
        (lost, "failed"),
    ]
    expected = {(everything.id, j.id, f"job.{status}") for j, status in ends}
    assert told == expected | {(failures.id, bad.id, "job.failed"), (failures.id, lost.id, "job.failed")}
    assert len(all_deliveries(url)) == len(told)
    assert not any("a concept's name" in d.body for d in all_deliveries(url))


def test_a_message_is_there_if_and_only_if_the_end_was_committed(settings, hook, url, tenant):
    hook("http://127.0.0.1:1/")
    with db.transaction(url) as session:
        job = jobs.create_job(session, tenant.id, "erase", {})
        claimed = attempts.claim(session, job.id, owner="test", lease=LEASE)

    def publish() -> None:
        with db.transaction(url) as session:
            attempts.publish(session, job.id, claimed.fence, [], verdict=None, progress=None)
            if all_or_nothing:
                raise InterruptedError

    all_or_nothing = True
    with pytest.raises(InterruptedError):
        publish()
    assert all_deliveries(url) == []
    all_or_nothing = False
    publish()
    assert len(all_deliveries(url)) == 1


def test_a_webhook_that_is_removed_meanwhile_does_not_keep_a_job_from_ending(
    settings, hook, end, url, tenant
):
    row, _ = hook("http://127.0.0.1:1/")
    with db.transaction(url) as session:
        actor = Actor(session.scalar(text("select id from api_keys limit 1")))

    def waiting() -> int:
        with db.transaction(url) as session:
            return session.scalar(
                text("select count(*) from pg_stat_activity where wait_event_type = 'Lock'")
            )

    with ThreadPoolExecutor() as pool:
        with db.transaction(url) as session:
            webhooks.delete_webhook(session, tenant.id, row.id, actor)
            ending = pool.submit(end)  # waits for the removal, which is not yet committed
            until(waiting)
        job_id = ending.result()
    with db.transaction(url) as session:
        assert jobs.get(session, tenant.id, job_id).status == "succeeded"
    assert all_deliveries(url) == []


# In which turn


def test_a_slow_receiver_holds_up_no_other(settings, hook, end, url):
    with receiving(silent) as slow, receiving() as quick:
        hook(slow.url())
        for _ in range(12):
            end()
        hook(quick.url())
        end()
        loop = Deliverer()
        loop.turn(settings)
        until(lambda: quick.got)
        assert len(slow.got) <= webhook_deliveries.AT_ONCE
        loop.turn(settings)
        until(lambda: any(d.status == "delivered" for d in all_deliveries(url)))
        assert len(slow.got) <= webhook_deliveries.AT_ONCE
        slow.over.set()
        loop.pool.shutdown()


def test_a_tenant_with_many_slow_receivers_holds_up_no_other_tenant(settings, hook, end, url, other_tenant):
    with receiving(silent) as slow, receiving() as quick:
        for n in range(webhooks.MAX_WEBHOOKS):
            hook(slow.url(path=f"/{n}"))
        end()
        hook(quick.url(), of=other_tenant)
        end(of=other_tenant)
        loop = Deliverer()
        loop.turn(settings)
        until(lambda: quick.got)
        loop.turn(settings)
        until(lambda: len(slow.got) == webhook_deliveries.OF_TENANT)
        with db.transaction(url) as session:
            assert webhook_deliveries.claim(session, limit=100, lease=LEASE) == []
        slow.over.set()
        loop.pool.shutdown()


def test_two_loops_at_once_do_not_take_the_same_delivery(hook, end, url):
    hook("http://127.0.0.1:1/")
    end()
    with db.transaction(url) as one, db.transaction(url) as two:
        assert len(webhook_deliveries.claim(one, limit=8, lease=LEASE)) == 1
        assert webhook_deliveries.claim(two, limit=8, lease=LEASE) == []
    with db.transaction(url) as three:
        assert webhook_deliveries.claim(three, limit=8, lease=LEASE) == []


def test_an_attempt_that_was_overtaken_writes_nothing(hook, end, url):
    hook("http://127.0.0.1:1/")
    end()
    with db.transaction(url) as session:
        [first] = webhook_deliveries.claim(session, limit=8, lease=timedelta(seconds=-1))
    with db.transaction(url) as session:
        [second] = webhook_deliveries.claim(session, limit=8, lease=LEASE)
    with db.transaction(url) as session:
        assert (
            webhook_deliveries.record_attempt(session, first, status=200, error=None, seconds=0, retries=())
            is None
        )
        assert (
            webhook_deliveries.record_attempt(session, second, status=200, error=None, seconds=0, retries=())
            == "delivered"
        )
    assert len(all_deliveries(url)[0].log) == 1


def test_a_secret_under_another_server_s_is_a_failure_that_says_so(settings, hook, end):
    settings = settings.model_copy(
        update={"webhook_retry_seconds": (), "secret": type(settings.secret)("x" * 40)}
    )
    with receiving() as receiver:
        hook(receiver.url())
        end()
        [delivery] = run(settings)
        assert (errors(delivery), receiver.got) == ([(None, "secret_unreadable")], [])


def test_old_deliveries_are_forgotten_and_waiting_ones_are_not(settings, hook, end, url):
    with receiving() as receiver:
        hook(receiver.url())
        end()
        run(settings)
    end()
    sweeper.turn(settings.model_copy(update={"webhook_log_seconds": 1e-6}))
    assert [d.status for d in all_deliveries(url)] == ["pending"]
