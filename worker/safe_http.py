"""POST to a client's host and to nowhere else (no SSRF).

The host is resolved once and refused if any of its addresses is not public; the connection goes to those very
addresses, while SNI, certificate and Host header remain the host's. httpcore is used directly: it follows no
redirect, reads no proxy from the environment, keeps no cookie and decompresses nothing.
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

from expunge.store.webhook_targets import Refused, Target, is_public

MAX_ANSWER = 64 * 1024  # bytes that are read, headers included
# getaddrinfo has no timeout: a slow call is abandoned in its thread
RESOLVERS = ThreadPoolExecutor(16, thread_name_prefix="resolve")


class Undelivered(Exception):
    """No answer; the code says why: timeout, unreachable, tls_failed, bad_answer."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class Deadline:
    """A point in time after which nothing waits any longer."""

    def __init__(self, seconds: float) -> None:
        self.at = time.monotonic() + seconds

    def seconds_left(self) -> float:
        """Raises: Undelivered where there are none."""
        left = self.at - time.monotonic()
        if left <= 0:
            raise Undelivered("timeout")
        return left


class BoundedStream(httpcore.NetworkStream):
    """A connection that ends at a deadline, however slowly bytes arrive, and reads at most MAX_ANSWER."""

    def __init__(self, inner: httpcore.NetworkStream, deadline: Deadline) -> None:
        self.inner, self.deadline = inner, deadline
        self.bytes_left = MAX_ANSWER

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002
        if self.bytes_left == 0:
            raise Undelivered("bad_answer")
        found = self.inner.read(min(max_bytes, self.bytes_left), self.deadline.seconds_left())
        self.bytes_left -= len(found)
        return found

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002
        self.inner.write(buffer, self.deadline.seconds_left())

    def close(self) -> None:
        self.inner.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ARG002
    ) -> httpcore.NetworkStream:
        try:
            return BoundedStream(
                self.inner.start_tls(ssl_context, server_hostname, self.deadline.seconds_left()),
                self.deadline,
            )
        except httpcore.ConnectError as error:
            raise Undelivered("tls_failed") from error

    def get_extra_info(self, info: str) -> Any:
        return self.inner.get_extra_info(info)


class PinnedBackend(httpcore.NetworkBackend):
    """Connects to the addresses it was given, whatever host it is asked for."""

    def __init__(self, addresses: Sequence[str], deadline: Deadline) -> None:
        self.addresses, self.deadline = addresses, deadline
        self.inner = httpcore.SyncBackend()

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
            share = self.deadline.seconds_left() / (len(self.addresses) - n + 1)
            try:
                return BoundedStream(
                    self.inner.connect_tcp(address, port, share, local_address, socket_options), self.deadline
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                if n == len(self.addresses):
                    raise
        raise Undelivered("unreachable")


def resolve(target: Target, deadline: Deadline) -> list[str]:
    """Look up all addresses of a host, once.

    Raises: Refused where there is none, or any is not public; Undelivered.
    """
    asked = RESOLVERS.submit(socket.getaddrinfo, target.host, target.port, type=socket.SOCK_STREAM)
    try:
        found = [str(entry[4][0]) for entry in asked.result(timeout=deadline.seconds_left())]
    except TimeoutError as error:
        raise Undelivered("timeout") from error
    except OSError as error:
        raise Refused("has no address") from error
    if not target.trusted and not all(is_public(ipaddress.ip_address(address)) for address in found):
        raise Refused("has an address that is not public")
    return list(dict.fromkeys(found))


@lru_cache
def make_ssl_context(ca_file: Path | None) -> ssl.SSLContext:
    """A context that trusts the public certificate authorities, and the operator's own."""
    context = httpcore.default_ssl_context()
    if ca_file is not None:
        context.load_verify_locations(ca_file)
    return context


def post(
    target: Target, headers: dict[str, str], body: bytes, *, seconds: float, ca_file: Path | None = None
) -> int:
    """POST once and return the answer's status; its body is read and dropped.

    Raises: Refused, Undelivered.
    """
    deadline = Deadline(seconds)
    url = httpcore.URL(scheme=target.scheme, host=target.host, port=target.port, target=target.path)
    all_headers = {"Host": target.authority, "Content-Length": str(len(body)), "Connection": "close"}
    all_headers |= headers
    status = 0
    try:
        with (
            httpcore.ConnectionPool(
                ssl_context=make_ssl_context(ca_file),
                network_backend=PinnedBackend(resolve(target, deadline), deadline),
            ) as pool,
            pool.stream("POST", url, headers=list(all_headers.items()), content=body) as answer,
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
