"""HTTP with patience: lost connections, 429 and 503 are tried again, always with the same Idempotency-Key."""

import random
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from client.errors import ApiError, ConnectionFailed
from client.types import Problem

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
    return Problem(status=response.status_code, code="unknown", title=response.reason_phrase, detail=response.text[:300])


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
    return response.status_code in RETRIED or (response.status_code == 409 and problem_of(response).code == "idempotency_in_flight")


class Transport:
    """One HTTP connection pool to one service."""

    def __init__(self, url: str, api_key: str | None, *, retries: int, timeout: float, sleep: Callable[[float], None] = time.sleep) -> None:
        headers = {"Accept": "application/json", "User-Agent": "expunge-client/1"}
        if api_key:
            headers["Authorization"] = f"Bearer {api_key}"
        self.url = url
        self.retries = retries
        self.sleep = sleep
        self.http = httpx.Client(base_url=url, headers=headers, timeout=httpx.Timeout(timeout, connect=10.0), follow_redirects=False)

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
        """One answer below 400, or an error. `content` is a function, so that every try sends the body from its beginning."""
        head = dict(headers or {})
        if method == "POST":
            head["Idempotency-Key"] = idempotency_key or str(uuid.uuid4())
        for attempt in range(self.retries + 1):
            response = None
            try:
                response = self.http.request(method, path, json=json, content=content() if content else None, params=params, headers=head)
            except httpx.TransportError as error:
                if attempt == self.retries:
                    raise ConnectionFailed(f"{self.url} cannot be reached: {error or type(error).__name__}") from error
            if response is not None:
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
        """An open GET; errors become ApiError, lost connections stay httpx.TransportError for the caller to resume."""
        with self.http.stream("GET", path, headers=headers, params=params, timeout=timeout or self.http.timeout) as response:
            if response.status_code >= 400:
                response.read()
                raise ApiError(problem_of(response))
            yield response
