"""The service's address and the API key, as people paste them; and the proxy in between."""

import ipaddress
import os
import re
import urllib.request

import httpx

from expunge.client.errors import BadSetting

DEFAULT_URL = "http://127.0.0.1:8000"
KEY = re.compile(r"[!#-&(-~]+")  # printable ASCII but for quotes


def setting(value: str | None, variable: str, argument: str) -> tuple[str, str]:
    """An argument, or the environment's variable, and the name of whichever it is.

    White space and byte-order marks around it are removed.
    """
    text, name = (value, argument) if value else (os.environ.get(variable) or "", variable)
    return text.strip().strip("\ufeff\u200b\u00a0").strip(), name


def api_key(value: str | None) -> str | None:
    """The key. Raises: BadSetting, without the key, where it does not look like one."""
    text, name = setting(value, "EXPUNGE_API_KEY", "api_key")
    if text and not KEY.fullmatch(text):
        raise BadSetting(
            f"{name} is malformed: a key has no quotes, spaces or special characters; copy it again from"
            " DIR/api_key, or from whoever created it"
        )
    return text or None


def base_url(value: str | None) -> str:
    """The address without a slash at its end. Raises: BadSetting where it is not an http address."""
    text, name = setting(value, "EXPUNGE_URL", "url")
    text = text or DEFAULT_URL
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, ValueError) as error:
        raise BadSetting(f"{name} is not an address: write it like {DEFAULT_URL}") from error
    odd = url.query or url.fragment or (url.port or 0) > 65535 or re.search(r"\s", text)
    if url.scheme not in ("http", "https") or not url.host or odd:
        raise BadSetting(
            f"{name} '{without_credentials(text)}' is not the address of a service: write it with http:// or"
            f" https://, like {DEFAULT_URL}"
        )
    return text.rstrip("/")


def without_credentials(url: str) -> str:
    """An address as it may be printed: without user name and password."""
    return re.sub(r"(^|//)[^/@]*@", r"\1", url)


def is_loopback(host: str) -> bool:
    """Whether the host is this machine, which a proxy cannot reach for us."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
    return address.is_loopback or address.is_unspecified


def proxy_of(url: httpx.URL) -> str | None:
    """The environment's proxy for an address, as it may be printed."""
    proxies = urllib.request.getproxies()
    found = proxies.get(url.scheme) or proxies.get("all")
    if found is None or is_loopback(url.host) or urllib.request.proxy_bypass(url.host):
        return None
    return without_credentials(found)
