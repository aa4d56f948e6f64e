"""What a webhook must never reach (SSRF), and how the one connection it may make is held to its host."""

import socket
import ssl
import uuid
from datetime import UTC, datetime

import httpcore
import pytest

from expunge.store import webhook_deliveries
from expunge.store.settings import Settings
from expunge.store.webhook_targets import Refused, Target, parse_target
from expunge.worker.safe_http import Deadline, make_ssl_context, resolve
from expunge.worker.webhooks import send
from tests.support.webhook_receiver import certificate, receiving
from tests.support.webhooks import end, errors, hook, run, settings, url

__all__ = ["end", "hook", "settings", "url"]


@pytest.fixture
def names(monkeypatch) -> dict[str, list[list[str]]]:
    """name -> the addresses that the name server gives at each question, the last for ever; stands for the
    world's DNS.
    """
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
        return [
            (socket.AF_INET6 if ":" in a else socket.AF_INET, socket.SOCK_STREAM, 6, "", (a, port))
            for a in addresses
        ]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    given["asked"] = asked  # type: ignore[assignment]
    return given


def looked_up(host: str) -> Target:
    return parse_target(f"https://{host}/", Settings())


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


def test_a_rebinding_name_is_asked_for_once_an_attempt_and_checked_each_time(
    names, settings, hook, end, monkeypatch
):
    """The first answer is public, every later one is this machine: only the first may ever be connected
    to.
    """
    connected = []

    def connect(address, *_, **__):
        connected.append(address)
        raise ConnectionRefusedError

    # The world's network, which the tests have not got
    monkeypatch.setattr(socket, "create_connection", connect)
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
    "host",
    [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f.1",
        "localhost.",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "loopback.example.com",
    ],
)
def test_nothing_is_sent_to_this_machine_unless_the_operator_said_so(
    names, settings, hook, end, scheme: str, host: str
):
    """Even when the URL is in the database already: it is checked at each attempt."""
    names["loopback.example.com"] = [["127.0.0.1"]]
    with receiving() as receiver:
        changes = {
            "webhook_allowed_hosts": ("hooks.test",),
            "webhook_ports": (receiver.port,),
            "webhook_retry_seconds": (),
        }
        hook(f"{scheme}://{host}:{receiver.port}/")
        end()
        [delivery] = run(settings.model_copy(update=changes))
        assert (errors(delivery), receiver.got) == ([(None, "host_refused")], [])


def test_the_connection_goes_to_the_pinned_address_with_the_host_s_name_in_tls_and_http(
    names, settings, hook, end, tmp_path
):
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


def test_a_certificate_of_another_host_or_of_an_unknown_authority_is_refused(
    names, settings, hook, end, tmp_path
):
    names["hooks.test"] = [["127.0.0.1"]]
    settings = settings.model_copy(update={"webhook_retry_seconds": ()})
    pem = certificate(tmp_path, "other.test")
    with receiving(pem=pem) as receiver:
        hook(receiver.url("hooks.test"))
        for ca_file in (pem, None):
            end()
            assert errors(run(settings.model_copy(update={"webhook_ca_file": ca_file}))[-1]) == [
                (None, "tls_failed")
            ]
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

    context = make_ssl_context(None)
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname


def test_an_attempt_never_raises_for_what_a_receiver_does(settings):
    """Whatever an endpoint is, the answer is (status, error)."""
    due = webhook_deliveries.DueDelivery(
        uuid.uuid4(), 1, "http://127.0.0.1:1/", b"not sealed", None, "{}", datetime.now(UTC)
    )
    assert send(settings, due) == (None, "secret_unreadable")
    assert issubclass(httpcore.ConnectError, httpcore.NetworkError)
