"""The service's address and the API key, as people paste them; and which proxy stands in between."""

import ipaddress
import os
import re
import urllib.request

import httpx

from expunge.client.errors import BadSetting

DEFAULT_URL = "http://127.0.0.1:8000"
KEY = re.compile(r"[!#-&(-~]+")  # printable ASCII but for quotes


def given(value: str | None, variable: str, argument: str) -> tuple[str, str]:
    """What was given, or the environment has, without white space and byte-order marks around it; and where
    it comes from.
    """
    text, name = (value, argument) if value else (os.environ.get(variable) or "", variable)
    return text.strip().strip("\ufeff\u200b\u00a0").strip(), name


def api_key(value: str | None) -> str | None:
    """The key. BadSetting, which does not show it, where no key looks so."""
    text, name = given(value, "EXPUNGE_API_KEY", "api_key")
    if text and not KEY.fullmatch(text):
        raise BadSetting(
            f"{name} is malformed: it has quotes, spaces or signs that no key has; copy it again, from"
            " DIR/api_key or whoever made it"
        )
    return text or None


def base_url(value: str | None) -> str:
    """The address without a slash at its end. BadSetting where it is no http address."""
    text, name = given(value, "EXPUNGE_URL", "url")
    text = text or DEFAULT_URL
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, ValueError) as error:
        raise BadSetting(f"{name} is no address: write it as {DEFAULT_URL}") from error
    odd = url.query or url.fragment or (url.port or 0) > 65535 or re.search(r"\s", text)
    if url.scheme not in ("http", "https") or not url.host or odd:
        raise BadSetting(
            f"{name} '{shown(text)}' is no address of a service: write it with http:// or https://, as"
            f" {DEFAULT_URL}"
        )
    return text.rstrip("/")


def shown(url: str) -> str:
    """An address as it may be printed: without a user's name and password."""
    return re.sub(r"(^|//)[^/@]*@", r"\1", url)


def is_loopback(host: str) -> bool:
    """Whether the host is this machine: no proxy can reach it for us."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
    return address.is_loopback or address.is_unspecified


def proxy_of(url: httpx.URL) -> str | None:
    """The proxy that the environment names for an address, as it may be printed."""
    proxies = urllib.request.getproxies()
    found = proxies.get(url.scheme) or proxies.get("all")
    if found is None or is_loopback(url.host) or urllib.request.proxy_bypass(url.host):
        return None
    return shown(found)
