"""Where webhooks may be sent: what can be told from the URL alone."""

import ipaddress

import pytest

from expunge.store.settings import Settings
from expunge.store.webhook_targets import Refused, is_public, parse_target

INTERNAL = [
    "127.0.0.1",
    "127.1",
    "2130706433",
    "0x7f.1",
    "0x7f000001",
    "0177.0.0.1",
    "127.0.0.1.",
    "0",
    "0.0.0.0",
    "10.0.0.1",
    "172.16.3.4",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "100.127.255.254",
    "198.18.0.1",
    "224.0.0.1",
    "255.255.255.255",
    "[::1]",
    "[::]",
    "[::ffff:127.0.0.1]",
    "[::ffff:8.8.8.8]",
    "[::127.0.0.1]",
    "[64:ff9b::7f00:1]",
    "[2002:7f00:1::1]",
    "[fc00::1]",
    "[fe80::1]",
    "[fe80::1%25eth0]",
    "[fec0::1]",
    "[ff02::1]",
    "localhost",
    "localhost.",
    "LOCALHOST",
    "a.localhost",
]


@pytest.mark.parametrize("host", INTERNAL)
def test_hosts_that_are_not_public_are_refused(host: str):
    with pytest.raises(Refused):
        parse_target(f"https://{host}/hook", Settings())


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://example.com/", "not https"),
        ("ftp://example.com/", "not https"),
        ("file:///etc/passwd", "not https"),
        ("gopher://example.com/", "not https"),
        ("//example.com/", "not https"),
        ("example.com", "not https"),
        ("https://example.com:8443/", "port 8443"),
        ("https://example.com:80/", "port 80"),
        ("https://example.com:0/", "port 0"),
        ("https://example.com:99999/", "not a URL"),
        ("https://example.com:x/", "not a URL"),
        ("https://user:password@example.com/", "user name"),
        ("https://user@example.com/", "user name"),
        ("https://@example.com/", "user name"),
        ("https://example.com@127.0.0.1/", "user name"),
        ("https://example.com/#fragment", "fragment"),
        ("https://127.0.0.1#@example.com/", "fragment"),
        ("https://example.com\\@127.0.0.1/", "backslash"),
        ("https://exa mple.com/", "space"),
        ("https://example.com/\r\nX: y", "space"),
        ("https://example.com/\x00", "space"),
        ("https://ex\u00e4mple.com/", "outside ASCII"),
        ("https://example\u3002com/", "outside ASCII"),
        ("https:///hook", "not name a valid host"),
        ("https://", "not name a valid host"),
        ("https://exam_ple..com/", "not name a valid host"),
        ("https://%6cocalhost/", "not name a valid host"),
        ("https://[::1/", "not a URL"),
        ("https://[example.com]/", "not a URL"),
        ("https://[v1.a:b]/", "unusual form"),
        ("https://[::1]x/", "not public|not a URL|not name a valid host"),
        ("https://" + "a" * 64 + ".com/", "not name a valid host"),
    ],
)
def test_urls_of_another_sort_are_refused_with_the_reason(url: str, why: str):
    with pytest.raises(Refused, match=why):
        parse_target(url, Settings())


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("https://hooks.example.com/a?b=c", ("hooks.example.com", 443, "/a?b=c", "hooks.example.com")),
        ("https://Hooks.Example.com.:443", ("hooks.example.com", 443, "/", "hooks.example.com")),
        ("https://8.8.8.8/x", ("8.8.8.8", 443, "/x", "8.8.8.8")),
        ("https://[2606:4700::1111]/x", ("2606:4700::1111", 443, "/x", "[2606:4700::1111]")),
        ("https://xn--exmple-cua.com/", ("xn--exmple-cua.com", 443, "/", "xn--exmple-cua.com")),
    ],
)
def test_public_hosts_are_taken_apart(url: str, parts: tuple):
    found = parse_target(url, Settings())
    assert (found.host, found.port, found.path, found.authority) == parts
    assert not found.trusted


def test_more_ports_may_be_configured(monkeypatch):
    monkeypatch.setenv("EXPUNGE_WEBHOOK_PORTS", "443, 8443")
    found = parse_target("https://example.com:8443/", Settings())
    assert (found.port, found.authority) == (8443, "example.com:8443")


def test_the_operator_s_own_hosts_may_be_private_and_plain_but_no_others(monkeypatch):
    monkeypatch.setenv("EXPUNGE_WEBHOOK_ALLOWED_HOSTS", "Hooks.internal, 10.0.0.7,[::1]")
    settings = Settings()
    for url in (
        "http://hooks.internal:9000/x",
        "http://10.0.0.7/x",
        "https://hooks.internal./",
        "http://[::1]:8000/",
    ):
        assert parse_target(url, settings).trusted
    for url in (
        "http://10.0.0.8/",
        "http://a.hooks.internal/",
        "http://127.0.0.1/",
        "http://hooks.internal.example.com/",
    ):
        with pytest.raises(Refused):
            parse_target(url, settings)
    for url in ("http://user@hooks.internal/", "file://hooks.internal/", "http://hooks.internal/#x"):
        with pytest.raises(Refused):
            parse_target(url, settings)


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "2a00:1450:4001::5"])
def test_public_addresses_are_public(address: str):
    assert is_public(ipaddress.ip_address(address))
