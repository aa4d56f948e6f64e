"""HTTP with patience: lost connections, 429 and 503 are tried again, always with the same Idempotency-Key."""

import random
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from expunge.client.errors import ApiError, BadSetting, ConnectionFailed
from expunge.client.settings import is_loopback, proxy_of, shown
from expunge.client.types import Problem

RETRIED = {429, 502, 503, 504}
LONGEST_PAUSE = 30.0  # seconds
Content = Callable[[], Any]


def problem_of(response: httpx.Response) -> Problem:
    """The problem in an error answer; a gateway's page becomes one too."""
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
    """Seconds before the next try: Retry-After, else doubling from half a second, with jitter."""
    wanted = response.headers.get("retry-after", "") if response is not None else ""
    seconds = float(wanted) if wanted.isdecimal() else 0.5 * 2**attempt
    return min(LONGEST_PAUSE, seconds) * random.uniform(0.75, 1.0)


def again(response: httpx.Response) -> bool:
    """Whether the same request may succeed soon: a quota of jobs a day does not."""
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
        told: Callable[[str], None] = lambda _: None,
    ) -> None:
        headers = {"Accept": "application/json", "User-Agent": "expunge-client/1"}
        if api_key:
            headers["Authorization"] = f"Bearer {api_key}"
        self.url = shown(url)
        self.retries = retries
        self.sleep, self.told = sleep, told
        self.reached = False
        self.local = is_loopback(httpx.URL(url).host)
        self.proxy = proxy_of(httpx.URL(url))
        try:
            self.http = httpx.Client(
                base_url=url,
                headers=headers,
                timeout=httpx.Timeout(timeout, connect=10.0),
                follow_redirects=False,
                trust_env=not self.local,
                verify=(
                    httpx.create_ssl_context() if url.startswith("https") else False
                ),  # SSL_CERT_FILE counts on this machine, too
            )
        except (ImportError, ValueError, httpx.InvalidURL) as error:
            raise BadSetting(
                f"the proxy {self.proxy or 'of the environment'} cannot be used: {error}"
            ) from error

    def __repr__(self) -> str:
        return f"Transport({self.url!r})"

    def failed(self, error: httpx.TransportError) -> ConnectionFailed:
        """What to say when the service cannot be reached."""
        said = f"{self.url} cannot be reached: {error or type(error).__name__}"
        if self.proxy:
            said += (
                f" (through the proxy {self.proxy}, which the environment names; NO_PROXY leaves a host out)"
            )
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
        """One answer below 400, or an error.

        `content` is a function, so that every try sends the body from its beginning.
        """
        head = dict(headers or {})
        if method == "POST":
            head["Idempotency-Key"] = idempotency_key or str(uuid.uuid4())
        for attempt in range(self.retries + 1):
            response = None
            try:
                response = self.http.request(
                    method,
                    path,
                    json=json,
                    content=content() if content else None,
                    params=params,
                    headers=head,
                )
            except httpx.TransportError as error:
                nobody = isinstance(error, httpx.ConnectError) and self.local and not self.reached
                if (
                    attempt == self.retries
                    or nobody
                    or isinstance(error, httpx.UnsupportedProtocol | httpx.LocalProtocolError)
                ):
                    raise self.failed(error) from error
                self.told(f"{self.failed(error)}; trying again")
            if response is not None:
                self.reached = True
                if response.is_success:
                    return response
                if attempt == self.retries or not again(response):
                    raise ApiError(problem_of(response))
            self.sleep(pause(attempt, response))
        raise AssertionError("unreachable")

    @contextmanager
    def stream(
        self, path: str, headers: dict[str, str], params: Any = None, timeout: httpx.Timeout | None = None
    ) -> Iterator[httpx.Response]:
        """An open GET; errors become ApiError, lost connections stay httpx.TransportError for the caller to
        resume.
        """
        with self.http.stream(
            "GET", path, headers=headers, params=params, timeout=timeout or self.http.timeout
        ) as response:
            if response.status_code >= 400:
                response.read()
                raise ApiError(problem_of(response))
            yield response
