"""Where a webhook may send: https, port 443, public addresses; to the operator's own hosts anything.

A URL is parsed here and nowhere else: whoever connects uses the parts, so that no second parser can read it
differently.
"""

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from expunge.store.settings import Settings

LABEL = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
NAME = re.compile(rf"(?=.{{1,253}}$){LABEL}(\.{LABEL})*")
NUMBER = re.compile(r"\d+|0x[0-9a-f]*")
PRINTABLE = re.compile(r"[\x21-\x7e]+")
DEFAULT_PORTS = {"http": 80, "https": 443}
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Refused(ValueError):
    """Nothing may be sent to the URL; the message says why, and after a colon what to do instead."""


@dataclass(frozen=True)
class Target:
    """A URL in parts; `trusted`: the host is the operator's own."""

    scheme: str
    host: str
    port: int
    path: str
    trusted: bool

    @property
    def authority(self) -> str:
        """The value of the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"


def parse_target(url: str, settings: Settings) -> Target:
    """The parts of a URL that a webhook may have, as far as can be told without resolving its host.

    Raises: Refused.
    """
    # What any URL must be
    if not PRINTABLE.fullmatch(url) or "\\" in url:
        raise Refused(
            "holds a space, a backslash or a character outside ASCII: encode it (a host as punycode, a path"
            " with %)"
        )
    try:
        parts = urlsplit(url)
        port = parts.port
        host = (parts.hostname or "").removesuffix(".")
    except ValueError as error:
        raise Refused("is not a URL: write https://host/path") from error
    if parts.scheme not in DEFAULT_PORTS:
        raise Refused("is not https: write https://host/path")
    if "@" in parts.netloc:
        raise Refused("holds a user name or password: recognise our requests by their signature instead")
    if "#" in url:
        raise Refused("holds a fragment, which is never sent: leave out what follows '#'")

    # A host that the operator allows may be any, over http too
    trusted = host in {name.lower().removesuffix(".").strip("[]") for name in settings.webhook_allowed_hosts}
    address = parse_address(host)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    found = Target(parts.scheme, host, DEFAULT_PORTS[parts.scheme] if port is None else port, path, trusted)
    if trusted:
        return found

    # Any other must be public, over https
    if parts.scheme != "https":
        raise Refused("is not https: write https://host/path")
    if found.port not in settings.webhook_ports:
        allowed = ", ".join(map(str, settings.webhook_ports))
        raise Refused(f"names port {found.port}: the allowed ports are {allowed}")
    if host == "localhost" or host.endswith(".localhost") or (address is not None and not is_public(address)):
        raise Refused("names a host that is not public: name one that the server can reach over the internet")
    return found


def parse_address(host: str) -> Address | None:
    """The IP address that a host is, or None for a name.

    Raises: Refused for what only some parsers read as an address.
    """
    try:
        if ":" in host and "%" not in host:
            return ipaddress.IPv6Address(host)
        if NUMBER.fullmatch(host.rpartition(".")[2]):
            return ipaddress.IPv4Address(host)
    except ValueError as error:
        raise Refused(
            "names an address in an unusual form: write it out in full, or better name a host"
        ) from error
    if not NAME.fullmatch(host):
        raise Refused("does not name a valid host: write https://host/path")
    return None


def is_public(address: Address) -> bool:
    """Whether an address belongs to one host on the open internet.

    Addresses that lead to another address (mapped, 6to4, NAT64) do not.
    """
    if isinstance(address, ipaddress.IPv6Address) and (
        address.is_site_local or address.ipv4_mapped or address.sixtofour
    ):
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved
