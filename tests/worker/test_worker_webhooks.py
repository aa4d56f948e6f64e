"""Webhooks against a real little HTTP server (fault F24), and what they must never reach."""

import base64
import hashlib
import hmac
import json
import signal
import socket
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpcore
import pytest
from fleets import Fleet, until
from receiver import certificate, drip, flood, receiving, silent, to
from sqlalchemy import text
from standardwebhooks import Webhook as Verifier

from store import attempts, audit, db, deliveries, jobs, keys, webhooks
from store.models import Delivery, Job, Tenant, Webhook
from store.queue import reap
from store.settings import Settings
from store.targets import Refused, Target, target
from worker import sweeper
from worker.outbound import Deadline, resolve, trust
from worker.webhooks import Deliverer, attempt

LEASE = timedelta(seconds=60)
SECRET = "0123456789abcdef" * 4
OK = b"HTTP/1.1 200 OK\r\n"


@dataclass(frozen=True)
class Actor:
    key_id: uuid.UUID
    address: str | None = "192.0.2.7"
    request_id: str = "request-1"


@pytest.fixture
def settings(settings) -> Settings:
    """Plain http to this machine allowed, retries at once."""
    changes = {"webhook_allowed_hosts": ("127.0.0.1", "hooks.test"), "webhook_retry_seconds": (0.0,) * 9, "webhook_timeout_seconds": 5.0}
    return settings.model_copy(update=changes)


@pytest.fixture
def url(settings) -> str:
    return settings.database_url.get_secret_value()


@pytest.fixture
def hook(url, tenant) -> Callable[..., tuple[Webhook, str]]:
    """hook(url, of=tenant, **facts): a committed webhook and its secret."""

    def made(where: str, of: Tenant = tenant, **facts: object) -> tuple[Webhook, str]:
        with db.transaction(url) as session:
            actor = Actor(keys.create(session, SECRET, of.id, name="ci")[0].id)
            values = {"events": webhooks.EVENTS, "description": "", "enabled": True, **facts}
            return webhooks.create(session, of.id, actor, url=where, secret=SECRET, **values)  # type: ignore[arg-type]

    return made


@pytest.fixture
def end(url, tenant) -> Callable[..., uuid.UUID]:
    """end(of=tenant): a job that has been published."""

    def ended(of: Tenant = tenant) -> uuid.UUID:
        with db.transaction(url) as session:
            job = jobs.create_job(session, of.id, "erase", {"concepts": ["a secret concept"]}, labels={"team": "hush"}).job
            claimed = attempts.claim(session, job.id, owner="test", lease=LEASE)
            assert claimed is not None
            attempts.publish(session, job.id, claimed.fence, [], verdict={"passed": True, "esr1": 1.0}, progress=None)
            return job.id

    return ended


def all_deliveries(url: str) -> list[Delivery]:
    with db.transaction(url) as session:
        return list(session.query(Delivery).order_by(Delivery.created_at, Delivery.id))


def run(settings: Settings, rounds: int = 200) -> list[Delivery]:
    """Rounds of the loop until nothing is left that is due."""
    loop, url = Deliverer(), settings.database_url.get_secret_value()
    for _ in range(rounds):
        loop.turn(settings)
        for flight in list(loop.flying):
            flight.result()
        found = all_deliveries(url)
        if all(d.status != "pending" for d in found):
            break
    loop.pool.shutdown()
    return found


def errors(delivery: Delivery) -> list[tuple[int | None, str | None]]:
    return [(entry["status"], entry["error"]) for entry in delivery.log]


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
        "data": {"job_id": str(job_id), "kind": "erase", "status": "succeeded", "passed": True},
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
    for headers, body in ((got.headers, got.body + b" "), (late, got.body), ({**got.headers, "webhook-id": "msg_x"}, got.body)):
        with pytest.raises(ValueError, match="webhook"):
            scope["verify"](secret, headers, body)


def test_while_a_secret_is_rotated_each_message_has_both_signatures(settings, hook, end, url, tenant):
    with receiving() as receiver:
        row, old = hook(receiver.url())
        with db.transaction(url) as session:
            actor = Actor(session.scalar(text("select id from api_keys limit 1")))
            _, new = webhooks.rotate(session, tenant.id, row.id, actor, secret=SECRET, overlap=timedelta(hours=1))
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
        return jobs.create_job(session, tenant.id, "erase", {}, **facts).job  # type: ignore[arg-type]

    def claimed(id_: uuid.UUID) -> Job:
        found = attempts.claim(session, id_, owner="test", lease=LEASE)
        assert found is not None
        return found

    with db.transaction(url) as session:
        ok, bad, stopped, waiting, late = (job(queue_timeout_s=1) for _ in range(5))
        lost = job(max_attempts=1)
        jobs.create_job(session, other_tenant.id, "erase", {}, queue_timeout_s=1)
        attempts.publish(session, ok.id, claimed(ok.id).fence, [], verdict=None, progress=None)
        attempts.fail(session, bad.id, claimed(bad.id).fence, code="x", message="a concept's name", retryable=True)
        fence = claimed(stopped.id).fence
        jobs.cancel(session, tenant.id, stopped.id)
        attempts.cancelled(session, stopped.id, fence)
        jobs.cancel(session, tenant.id, waiting.id)
        claimed(lost.id)
    with db.transaction(url) as session:
        session.execute(text("update jobs set queue_deadline_at = now() - interval '1 s', lease_expires_at = now() - interval '1 s'"))
    with db.transaction(url) as session:
        reap(session, backoff=0)
    told = {(d.webhook_id, d.job_id, d.event) for d in all_deliveries(url)}
    ends = [(ok, "succeeded"), (bad, "failed"), (stopped, "cancelled"), (waiting, "cancelled"), (late, "expired"), (lost, "failed")]
    expected = {(everything.id, j.id, f"job.{status}") for j, status in ends}
    assert told == expected | {(failures.id, bad.id, "job.failed"), (failures.id, lost.id, "job.failed")}
    assert len(all_deliveries(url)) == len(told)
    assert not any("a concept's name" in d.body for d in all_deliveries(url))


def test_a_message_is_there_if_and_only_if_the_end_was_committed(settings, hook, url, tenant):
    hook("http://127.0.0.1:1/")
    with db.transaction(url) as session:
        job = jobs.create_job(session, tenant.id, "erase", {}).job
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


def test_a_webhook_that_is_removed_meanwhile_does_not_keep_a_job_from_ending(settings, hook, end, url, tenant):
    row, _ = hook("http://127.0.0.1:1/")
    with db.transaction(url) as session:
        actor = Actor(session.scalar(text("select id from api_keys limit 1")))

    def waiting() -> int:
        with db.transaction(url) as session:
            return session.scalar(text("select count(*) from pg_stat_activity where wait_event_type = 'Lock'"))

    with ThreadPoolExecutor() as pool:
        with db.transaction(url) as session:
            webhooks.remove(session, tenant.id, row.id, actor)
            ending = pool.submit(end)  # waits for the removal, which is not yet committed
            until(waiting)
        job_id = ending.result()
    with db.transaction(url) as session:
        assert jobs.get(session, tenant.id, job_id).status == "succeeded"
    assert all_deliveries(url) == []


# F24: receivers that fail


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
    """0, 5 s, 5 m, 30 m, 2 h, 5 h, 10 h, 14 h, 20 h, 24 h: ten attempts; told by the database's clock, in one transaction."""
    hook("http://127.0.0.1:1/")
    end()
    waits, retries = [], Settings().webhook_retry_seconds
    while True:
        with db.transaction(url) as session:
            session.execute(text("update webhook_deliveries set next_attempt_at = now()"))
            [due] = deliveries.claim(session, limit=8, lease=LEASE)
            status = deliveries.settle(session, due, status=500, error="http_status", seconds=0.1, retries=retries)
            if status == "failed":
                break
            waits.append(session.scalar(text("select extract(epoch from next_attempt_at - now()) from webhook_deliveries")))
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
        [(entry, who)] = audit.page(session, tenant.id, action="webhook.disabled")
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


@pytest.mark.parametrize("answer", [flood(OK), flood(b"HTTP/1.1 "), flood(b""), lambda handler: handler.wfile.write(b"SSH-2.0-x\r\n\r\n")])
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
        assert len(slow.got) <= deliveries.AT_ONCE
        loop.turn(settings)
        until(lambda: any(d.status == "delivered" for d in all_deliveries(url)))
        assert len(slow.got) <= deliveries.AT_ONCE
        slow.over.set()
        loop.pool.shutdown()


def test_a_tenant_with_many_slow_receivers_holds_up_no_other_tenant(settings, hook, end, url, other_tenant):
    with receiving(silent) as slow, receiving() as quick:
        for n in range(webhooks.MOST):
            hook(slow.url(path=f"/{n}"))
        end()
        hook(quick.url(), of=other_tenant)
        end(of=other_tenant)
        loop = Deliverer()
        loop.turn(settings)
        until(lambda: quick.got)
        loop.turn(settings)
        until(lambda: len(slow.got) == deliveries.OF_TENANT)
        with db.transaction(url) as session:
            assert deliveries.claim(session, limit=100, lease=LEASE) == []
        slow.over.set()
        loop.pool.shutdown()


def test_two_loops_at_once_do_not_take_the_same_delivery(hook, end, url):
    hook("http://127.0.0.1:1/")
    end()
    with db.transaction(url) as one, db.transaction(url) as two:
        assert len(deliveries.claim(one, limit=8, lease=LEASE)) == 1
        assert deliveries.claim(two, limit=8, lease=LEASE) == []
    with db.transaction(url) as three:
        assert deliveries.claim(three, limit=8, lease=LEASE) == []


def test_an_attempt_that_was_overtaken_writes_nothing(hook, end, url):
    hook("http://127.0.0.1:1/")
    end()
    with db.transaction(url) as session:
        [first] = deliveries.claim(session, limit=8, lease=timedelta(seconds=-1))
    with db.transaction(url) as session:
        [second] = deliveries.claim(session, limit=8, lease=LEASE)
    with db.transaction(url) as session:
        assert deliveries.settle(session, first, status=200, error=None, seconds=0, retries=()) is None
        assert deliveries.settle(session, second, status=200, error=None, seconds=0, retries=()) == "delivered"
    assert len(all_deliveries(url)[0].log) == 1


def test_a_secret_under_another_server_s_is_a_failure_that_says_so(settings, hook, end):
    settings = settings.model_copy(update={"webhook_retry_seconds": (), "secret": type(settings.secret)("x" * 40)})
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


def test_a_message_in_flight_outlives_the_kill_of_its_process(fleet: Fleet, settings, hook, end, url):
    environment = {"WEBHOOK_ALLOWED_HOSTS": "127.0.0.1", "WEBHOOK_SECONDS": "0.1", "WEBHOOK_TIMEOUT_SECONDS": "30"}
    with receiving(silent, 200) as receiver:
        hook(receiver.url())
        loops = fleet.start("worker.loops", **environment)
        end()
        until(lambda: receiver.got)
        fleet.signal(loops, signal.SIGKILL)
        assert all_deliveries(url)[0].status == "pending"
        with db.transaction(url) as session:
            session.execute(text("update webhook_deliveries set leased_until = now() - interval '1 s'"))
        fleet.start("worker.loops", **environment)
        until(lambda: all_deliveries(url)[0].status == "delivered")
    assert len({got.headers["webhook-id"] for got in receiver.got}) == 1
    assert len(receiver.got) == 2


# SSRF


@pytest.fixture
def names(monkeypatch) -> dict[str, list[list[str]]]:
    """name -> the addresses that the name server gives at each question, the last for ever; stands for the world's DNS."""
    given: dict[str, list[list[str]]] = {}
    asked: list[str] = []
    real = socket.getaddrinfo

    def getaddrinfo(host: str, port: int, *arguments: object, **more: object) -> object:
        if host not in given:
            return real(host, port, *arguments, **more)  # type: ignore[arg-type]
        asked.append(host)
        addresses = given[host].pop(0) if len(given[host]) > 1 else given[host][0]
        if not addresses:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return [(socket.AF_INET6 if ":" in a else socket.AF_INET, socket.SOCK_STREAM, 6, "", (a, port)) for a in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    given["asked"] = asked  # type: ignore[assignment]
    return given


def looked_up(host: str) -> Target:
    return target(f"https://{host}/", Settings())


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        ["93.184.215.14", "127.0.0.1"],
        ["93.184.215.14", "169.254.169.254"],
        ["100.64.0.1"],
        ["::1"],
        ["::ffff:127.0.0.1"],
        ["2606:4700::1111", "fe80::1"],
        ["64:ff9b::a9fe:a9fe"],
        [],
    ],
)
def test_a_name_is_refused_if_any_of_its_addresses_is_not_public(names, addresses: list[str]):
    names["hooks.example.com"] = [addresses]
    with pytest.raises(Refused):
        resolve(looked_up("hooks.example.com"), Deadline(5))


def test_a_rebinding_name_is_asked_for_once_an_attempt_and_checked_each_time(names, settings, hook, end, monkeypatch):
    """The first answer is public, every later one is this machine: only the first may ever be connected to."""
    connected = []

    def connect(address, *_, **__):
        connected.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "create_connection", connect)  # the world's network, which the tests have not got
    names["rebinding.example.com"] = [["93.184.215.14"], ["127.0.0.1"]]
    settings = settings.model_copy(update={"webhook_retry_seconds": (0.0, 0.0)})
    hook("https://rebinding.example.com/")
    end()
    [delivery] = run(settings)
    assert errors(delivery) == [(None, "unreachable"), (None, "host_refused"), (None, "host_refused")]
    assert connected == [("93.184.215.14", 443)]
    assert names["asked"] == ["rebinding.example.com"] * 3


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.1", "2130706433", "0x7f.1", "localhost.", "[::1]", "[::ffff:127.0.0.1]", "loopback.example.com"]
)
def test_nothing_is_sent_to_this_machine_unless_the_operator_said_so(names, settings, hook, end, scheme: str, host: str):
    """Even when the URL is in the database already: it is checked at each attempt."""
    names["loopback.example.com"] = [["127.0.0.1"]]
    with receiving() as receiver:
        changes = {"webhook_allowed_hosts": ("hooks.test",), "webhook_ports": (receiver.port,), "webhook_retry_seconds": ()}
        hook(f"{scheme}://{host}:{receiver.port}/")
        end()
        [delivery] = run(settings.model_copy(update=changes))
        assert (errors(delivery), receiver.got) == ([(None, "host_refused")], [])


def test_the_connection_goes_to_the_pinned_address_with_the_host_s_name_in_tls_and_http(names, settings, hook, end, tmp_path):
    names["hooks.test"] = [["127.0.0.1"], ["203.0.113.9"]]
    pem = certificate(tmp_path, "hooks.test")
    with receiving(pem=pem) as receiver:
        hook(receiver.url("hooks.test"))
        end()
        [delivery] = run(settings.model_copy(update={"webhook_ca_file": pem}))
    assert errors(delivery) == [(200, None)]
    assert receiver.sni == ["hooks.test"]
    assert receiver.got[0].headers["host"] == f"hooks.test:{receiver.port}"
    assert names["asked"] == ["hooks.test"]


def test_a_certificate_of_another_host_or_of_an_unknown_authority_is_refused(names, settings, hook, end, tmp_path):
    names["hooks.test"] = [["127.0.0.1"]]
    settings = settings.model_copy(update={"webhook_retry_seconds": ()})
    pem = certificate(tmp_path, "other.test")
    with receiving(pem=pem) as receiver:
        hook(receiver.url("hooks.test"))
        for ca_file in (pem, None):
            end()
            assert errors(run(settings.model_copy(update={"webhook_ca_file": ca_file}))[-1]) == [(None, "tls_failed")]
        assert receiver.got == []


def test_a_dead_address_leaves_time_for_the_next(names, settings, hook, end):
    names["hooks.test"] = [["::1", "127.0.0.1"]]
    with receiving() as receiver:  # listens on 127.0.0.1 alone
        hook(receiver.url("hooks.test"))
        end()
        [delivery] = run(settings)
    assert errors(delivery) == [(200, None)]


def test_proxies_of_the_environment_are_not_asked(settings, hook, end, monkeypatch):
    with receiving() as proxy, receiving() as receiver:
        for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url(path=""))
        hook(receiver.url())
        end()
        run(settings)
        assert (len(receiver.got), proxy.got) == (1, [])


def test_certificates_are_checked():
    import ssl

    context = trust(None)
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname


def test_an_attempt_never_raises_for_what_a_receiver_does(settings):
    """Whatever an endpoint is, the answer is (status, error)."""
    due = deliveries.Due(uuid.uuid4(), 1, "http://127.0.0.1:1/", b"not sealed", None, "{}", datetime.now(UTC))
    assert attempt(settings, due) == (None, "secret_unreadable")
    assert issubclass(httpcore.ConnectError, httpcore.NetworkError)
