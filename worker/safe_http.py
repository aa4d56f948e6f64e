"""One POST to a client's host and to nowhere else.

The host is resolved once and refused if any of its addresses is not public; the connection goes to those very
addresses, with SNI, certificate and Host header still the host's. httpcore is used bare: it follows no
redirect, reads no proxy from the environment, keeps no cookie and unpacks nothing.
"""

import ipaddress
import socket
import ssl
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import httpcore

from expunge.store.webhook_targets import Refused, Target, public

MAX_ANSWER = 64 * 1024  # bytes that are read, heads included
# Getaddrinfo knows no timeout: a slow one is left behind
RESOLVERS = ThreadPoolExecutor(16, thread_name_prefix="resolve")


class Undelivered(Exception):
    """No answer; the code says why: timeout, unreachable, tls_failed, bad_answer."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class Deadline:
    """A moment after which nothing waits any more."""

    def __init__(self, seconds: float) -> None:
        self.at = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds; Undelivered when there are none."""
        left = self.at - time.monotonic()
        if left <= 0:
            raise Undelivered("timeout")
        return left


class Stream(httpcore.NetworkStream):
    """A connection that ends at a deadline however slowly bytes drip in, and reads no more than
    MAX_ANSWER.
    """

    def __init__(self, inner: httpcore.NetworkStream, deadline: Deadline) -> None:
        self.inner, self.deadline, self.room = inner, deadline, MAX_ANSWER

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002
        if self.room == 0:
            raise Undelivered("bad_answer")
        found = self.inner.read(min(max_bytes, self.room), self.deadline.left())
        self.room -= len(found)
        return found

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002
        self.inner.write(buffer, self.deadline.left())

    def close(self) -> None:
        self.inner.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ARG002
    ) -> httpcore.NetworkStream:
        try:
            return Stream(
                self.inner.start_tls(ssl_context, server_hostname, self.deadline.left()), self.deadline
            )
        except httpcore.ConnectError as error:
            raise Undelivered("tls_failed") from error

    def get_extra_info(self, info: str) -> Any:
        return self.inner.get_extra_info(info)


class Pinned(httpcore.NetworkBackend):
    """Connects to the addresses it was given, whatever host it is asked for."""

    def __init__(self, addresses: Sequence[str], deadline: Deadline) -> None:
        self.addresses, self.deadline, self.inner = addresses, deadline, httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,  # noqa: ARG002
        port: int,
        timeout: float | None = None,  # noqa: ARG002
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        for n, address in enumerate(self.addresses, start=1):
            # A silent address leaves time for the next
            share = self.deadline.left() / (len(self.addresses) - n + 1)
            try:
                return Stream(
                    self.inner.connect_tcp(address, port, share, local_address, socket_options), self.deadline
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                if n == len(self.addresses):
                    raise
        raise Undelivered("unreachable")


def resolve(target: Target, deadline: Deadline) -> list[str]:
    """All addresses of a host, asked for once. Refused when there is none, or when any is not public."""
    asked = RESOLVERS.submit(socket.getaddrinfo, target.host, target.port, type=socket.SOCK_STREAM)
    try:
        found = [str(entry[4][0]) for entry in asked.result(timeout=deadline.left())]
    except TimeoutError as error:
        raise Undelivered("timeout") from error
    except OSError as error:
        raise Refused("has no address") from error
    if not target.trusted and not all(public(ipaddress.ip_address(address)) for address in found):
        raise Refused("has an address that is not public")
    return list(dict.fromkeys(found))


@lru_cache
def trust(ca_file: Path | None) -> ssl.SSLContext:
    """The public certificate authorities, and the operator's own."""
    context = httpcore.default_ssl_context()
    if ca_file is not None:
        context.load_verify_locations(ca_file)
    return context


def post(
    target: Target, headers: dict[str, str], body: bytes, *, seconds: float, ca_file: Path | None = None
) -> int:
    """The answer's status; its body is read and dropped. Refused, Undelivered."""
    deadline = Deadline(seconds)
    url = httpcore.URL(scheme=target.scheme, host=target.host, port=target.port, target=target.path)
    whole = {"Host": target.authority, "Content-Length": str(len(body)), "Connection": "close", **headers}
    status = 0
    try:
        with (
            httpcore.ConnectionPool(
                ssl_context=trust(ca_file), network_backend=Pinned(resolve(target, deadline), deadline)
            ) as pool,
            pool.stream("POST", url, headers=list(whole.items()), content=body) as answer,
        ):
            status = answer.status
            for _ in answer.iter_stream():
                pass
    except httpcore.TimeoutException as error:
        raise Undelivered("timeout") from error
    except httpcore.ConnectError as error:
        raise Undelivered("unreachable") from error
    except (httpcore.NetworkError, httpcore.ProtocolError) as error:
        raise Undelivered("bad_answer") from error
    except Undelivered as error:
        if error.code != "bad_answer" or not status:  # a long answer is cut off, its status counts
            raise
    return status
