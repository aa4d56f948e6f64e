"""HTTP with retries: after a lost connection, 429 or 503 the same request, with the same Idempotency-Key."""

import random
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from expunge.client.errors import ApiError, BadSetting, ConnectionFailed
from expunge.client.settings import is_loopback, proxy_of, without_credentials
from expunge.client.types import Problem

RETRIED = {429, 502, 503, 504}
LONGEST_PAUSE = 30.0  # seconds
Content = Callable[[], Any]


def problem_of(response: httpx.Response) -> Problem:
    """The problem that an error response holds; made up where it is a gateway's page."""
    if "json" in response.headers.get("content-type", ""):
        try:
            found = response.json()
        except ValueError:
            found = None
        if isinstance(found, dict):
            return Problem.model_validate({"status": response.status_code, **found})
    return Problem(
        status=response.status_code, code="unknown", title=response.reason_phrase, detail=response.text[:300]
    )


def pause(attempt: int, response: httpx.Response | None) -> float:
    """Seconds before the next try: Retry-After, or doubling from half a second; with jitter."""
    wanted = response.headers.get("retry-after", "") if response is not None else ""
    seconds = float(wanted) if wanted.isdecimal() else 0.5 * 2**attempt
    return min(LONGEST_PAUSE, seconds) * random.uniform(0.75, 1.0)


def may_succeed_soon(response: httpx.Response) -> bool:
    """Whether the same request is worth repeating; not where a daily quota is used up."""
    wanted = response.headers.get("retry-after", "")
    if wanted.isdecimal() and int(wanted) > LONGEST_PAUSE:
        return False
    return response.status_code in RETRIED or (
        response.status_code == 409 and problem_of(response).code == "idempotency_in_flight"
    )


class Transport:
    """One HTTP connection pool to one service."""

    def __init__(
        self,
        url: str,
        api_key: str | None,
        *,
        retries: int,
        timeout: float,
        sleep: Callable[[float], None] = time.sleep,
        notify: Callable[[str], None] = lambda _: None,
    ) -> None:
        headers = {"Accept": "application/json", "User-Agent": "expunge-client/1"}
        if api_key:
            headers["Authorization"] = f"Bearer {api_key}"
        self.url = without_credentials(url)
        self.retries = retries
        self.sleep, self.notify = sleep, notify
        self.reached = False
        self.local = is_loopback(httpx.URL(url).host)
        self.proxy = proxy_of(httpx.URL(url))
        # trust_env is off for this machine, so that no proxy is asked; SSL_CERT_FILE must still count
        certificates = httpx.create_ssl_context() if url.startswith("https") else False
        try:
            self.http = httpx.Client(
                base_url=url,
                headers=headers,
                timeout=httpx.Timeout(timeout, connect=10.0),
                follow_redirects=False,
                trust_env=not self.local,
                verify=certificates,
            )
        except (ImportError, ValueError, httpx.InvalidURL) as error:
            proxy = self.proxy or "of the environment"
            raise BadSetting(f"the proxy {proxy} cannot be used: {error}") from error

    def __repr__(self) -> str:
        return f"Transport({self.url!r})"

    def unreachable(self, error: httpx.TransportError) -> ConnectionFailed:
        """The error for whoever called: which address, which proxy, and what to do."""
        said = f"{self.url} cannot be reached: {error or type(error).__name__}"
        if self.proxy:
            said += f" (through the proxy {self.proxy} from the environment; NO_PROXY exempts a host)"
        elif self.local and isinstance(error, httpx.ConnectError) and not self.reached:
            said += ". Start it with 'expunge up', or set EXPUNGE_URL to where it is"
        return ConnectionFailed(said)

    def request(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        content: Content | None = None,
        params: Any = None,
        headers: dict[str, str] | None = None,
        idempotency_key: str | None = None,
    ) -> httpx.Response:
        """A successful response, after as many tries as it takes.

        `content` is a function, so that every try sends the body from its beginning.
        Raises: ApiError where the service refuses; ConnectionFailed where it cannot be reached.
        """
        all_headers = dict(headers or {})
        if method == "POST":
            all_headers["Idempotency-Key"] = idempotency_key or str(uuid.uuid4())
        for attempt in range(self.retries + 1):
            response = None
            try:
                response = self.http.request(
                    method,
                    path,
                    json=json,
                    content=content() if content else None,
                    params=params,
                    headers=all_headers,
                )
            except httpx.TransportError as error:
                # Neither a request that cannot be sent nor a server that was never started gets better
                not_started = isinstance(error, httpx.ConnectError) and self.local and not self.reached
                unsendable = isinstance(error, httpx.UnsupportedProtocol | httpx.LocalProtocolError)
                if attempt == self.retries or not_started or unsendable:
                    raise self.unreachable(error) from error
                self.notify(f"{self.unreachable(error)}; trying again")
            if response is not None:
                self.reached = True
                if response.is_success:
                    return response
                if attempt == self.retries or not may_succeed_soon(response):
                    raise ApiError(problem_of(response))
            self.sleep(pause(attempt, response))
        raise AssertionError("unreachable")

    def json(self, method: str, path: str, **request: Any) -> Any:
        """The JSON that the service answers.

        Raises: what `request` raises; ConnectionFailed where something else answers at this address.
        """
        answer = self.request(method, path, **request)
        try:
            return answer.json()
        except ValueError as error:
            raise ConnectionFailed(
                f"{self.url} did not answer with JSON: set EXPUNGE_URL to an Expunge service"
            ) from error

    @contextmanager
    def stream(
        self, path: str, headers: dict[str, str], params: Any = None, timeout: httpx.Timeout | None = None
    ) -> Iterator[httpx.Response]:
        """An open GET, for a caller who resumes it himself.

        Raises: ApiError; httpx.TransportError where the connection is lost.
        """
        with self.http.stream(
            "GET", path, headers=headers, params=params, timeout=timeout or self.http.timeout
        ) as response:
            if response.status_code >= 400:
                response.read()
                raise ApiError(problem_of(response))
            yield response
