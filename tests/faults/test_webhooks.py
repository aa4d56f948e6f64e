"""Receivers of webhooks that fail, linger or lie (F24)."""

import json
import signal

import pytest
from sqlalchemy import text
from standardwebhooks import Webhook as Verifier

from expunge.store import audit, db, webhook_deliveries, webhooks
from expunge.store.settings import Settings
from tests.support.cluster import Fleet, until
from tests.support.webhook_receiver import drip, flood, receiving, silent, to
from tests.support.webhooks import LEASE, all_deliveries, end, errors, hook, run, settings, url

__all__ = ["end", "hook", "settings", "url"]


OK = b"HTTP/1.1 200 OK\r\n"


def test_f24_a_failing_receiver_is_tried_again_under_the_same_id_with_a_new_time(settings, hook, end):
    settings = settings.model_copy(update={"webhook_retry_seconds": (0.0, 0.0, 1.1)})
    with receiving(500, 503, 500, 200) as receiver:
        _, secret = hook(receiver.url())
        end()
        [delivery] = run(settings, rounds=100_000)
    assert (delivery.status, errors(delivery)) == (
        "delivered",
        [(500, "http_status"), (503, "http_status"), (500, "http_status"), (200, None)],
    )
    assert len({got.headers["webhook-id"] for got in receiver.got}) == 1
    assert len({got.body for got in receiver.got}) == 1
    times = [int(got.headers["webhook-timestamp"]) for got in receiver.got]
    assert times == sorted(times)
    assert times[-1] > times[0]
    for got in receiver.got:
        Verifier(secret).verify(got.body, got.headers)
    assert "nobody's business" not in json.dumps(delivery.log)


def test_f24_the_schedule_is_that_of_standard_webhooks_and_ends(url, hook, end):
    """0, 5 s, 5 m, 30 m, 2 h, 5 h, 10 h, 14 h, 20 h, 24 h: ten attempts; told by the database's clock, in one
    transaction.
    """
    hook("http://127.0.0.1:1/")
    end()
    waits, retries = [], Settings().webhook_retry_seconds
    while True:
        with db.transaction(url) as session:
            session.execute(text("update webhook_deliveries set next_attempt_at = now()"))
            [due] = webhook_deliveries.claim(session, limit=8, lease=LEASE)
            status = webhook_deliveries.record_attempt(
                session, due, status=500, error="http_status", seconds=0.1, retries=retries
            )
            if status == "failed":
                break
            waits.append(
                session.scalar(
                    text("select extract(epoch from next_attempt_at - now()) from webhook_deliveries")
                )
            )
    hour = 3600
    assert waits == [5, 300, 1800, 2 * hour, 5 * hour, 10 * hour, 14 * hour, 20 * hour, 24 * hour]
    [given_up] = all_deliveries(url)
    assert (given_up.status, len(given_up.log), given_up.finished_at is not None) == ("failed", 10, True)


def test_f24_410_disables_the_endpoint_for_good(settings, hook, end, url, tenant):
    with receiving(410) as receiver:
        row, _ = hook(receiver.url())
        end()
        [delivery] = run(settings)
        end()
        run(settings)
        assert len(receiver.got) == 1
    assert (delivery.status, errors(delivery)) == ("failed", [(410, "http_status")])
    with db.transaction(url) as session:
        found = webhooks.get(session, tenant.id, row.id)
        assert (found.enabled, found.disabled_reason) == (False, "gone")
        [(entry, who)] = audit.list_entries(session, tenant.id, action="webhook.disabled")
        assert (entry.target_id, entry.details, who) == (row.id, {"reason": "gone"}, None)
    assert len(all_deliveries(url)) == 1  # what ended afterwards is told to nobody


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_f24_a_redirect_is_a_failure_and_is_not_followed(settings, hook, end, status: int):
    settings = settings.model_copy(update={"webhook_retry_seconds": ()})
    with receiving() as internal, receiving(to(internal.url(path="/admin"), status)) as receiver:
        hook(receiver.url())
        end()
        [delivery] = run(settings)
        assert (delivery.status, errors(delivery)) == ("failed", [(status, "redirected")])
        assert internal.got == []


@pytest.mark.parametrize(
    "answer",
    [silent, drip(b"", b"H"), drip(OK, b"X-A: b\r\n"), drip(OK + b"Content-Length: 9999\r\n\r\n", b"x")],
    ids=["silent", "first line", "headers", "body"],
)
def test_f24_a_slow_loris_is_cut_off(settings, hook, end, answer):
    settings = settings.model_copy(update={"webhook_retry_seconds": (), "webhook_timeout_seconds": 0.6})
    with receiving(answer) as receiver:
        hook(receiver.url())
        end()
        [delivery] = run(settings)
    assert (delivery.status, errors(delivery)) == ("failed", [(None, "timeout")])
    assert len(receiver.got) == 1


def test_an_endless_answer_is_read_no_further_than_64_kib_and_its_status_counts(settings, hook, end):
    with receiving(flood(OK + b"\r\n")) as receiver:
        hook(receiver.url())
        end()
        [delivery] = run(settings)
    assert errors(delivery) == [(200, None)]


@pytest.mark.parametrize(
    "answer",
    [flood(OK), flood(b"HTTP/1.1 "), flood(b""), lambda handler: handler.wfile.write(b"SSH-2.0-x\r\n\r\n")],
)
def test_an_answer_that_is_no_http_is_a_failure(settings, hook, end, answer):
    settings = settings.model_copy(update={"webhook_retry_seconds": ()})
    with receiving(answer) as receiver:
        hook(receiver.url())
        end()
        [delivery] = run(settings)
    assert errors(delivery) == [(None, "bad_answer")]


def test_a_closed_port_is_a_failure(settings, hook, end):
    settings = settings.model_copy(update={"webhook_retry_seconds": ()})
    with receiving() as receiver:
        where = receiver.url()
    hook(where)
    end()
    [delivery] = run(settings)
    assert errors(delivery) == [(None, "unreachable")]


def test_f24_a_message_in_flight_outlives_the_kill_of_its_process(fleet: Fleet, hook, url):
    environment = {
        "EXPUNGE_WEBHOOK_ALLOWED_HOSTS": "127.0.0.1",
        "EXPUNGE_WEBHOOK_SECONDS": "0.1",
        "EXPUNGE_WEBHOOK_TIMEOUT_SECONDS": "30",
    }
    with receiving(silent, 200) as receiver:
        hook(receiver.url())
        loops = fleet.start("expunge.worker.loops", **environment)
        fleet.worker()
        fleet.until_status(fleet.post(), "succeeded")
        until(lambda: receiver.got)
        fleet.signal(loops, signal.SIGKILL)
        assert all_deliveries(url)[0].status == "pending"
        with db.transaction(url) as session:
            session.execute(text("update webhook_deliveries set leased_until = now() - interval '1 s'"))
        fleet.start("expunge.worker.loops", **environment)
        until(lambda: all_deliveries(url)[0].status == "delivered")
    assert len({got.headers["webhook-id"] for got in receiver.got}) == 1
    assert len(receiver.got) == 2
