"""A job's events: live, from a stream that is resumed when the connection is lost, or polled."""

import time
from collections.abc import Iterator

import httpx

from expunge.client import sse
from expunge.client.errors import ApiError, ConnectionFailed, WaitTimeout
from expunge.client.transport import RETRIED, Transport, pause
from expunge.client.types import Event

QUIET = 45.0  # seconds without a byte before a stream counts as lost; the service sends a heartbeat every 15
POLL = 0.5  # seconds between two looks at a job


def follow_events(transport: Transport, job_id: str, after: int) -> Iterator[Event]:
    """Every event after `after` until the job has ended, without gap or repeat.

    Raises: ConnectionFailed or ApiError after `transport.retries` failures in a row without a new event.
    """
    path, failures = f"/jobs/{job_id}/events", 0
    while True:
        before = after
        try:
            for event in stream_events(transport, path, after):
                after = event.seq
                yield event
            # The stream ends with the job, or with the server: the page tells which, and has what was missed
            page = transport.json("GET", path, params={"after": after})
            for item in page["items"]:
                event = Event.model_validate(item)
                after = event.seq
                yield event
            if page["finished"]:
                return
            continue
        except httpx.TransportError as error:
            cause = str(error) or type(error).__name__
            lost: Exception = ConnectionFailed(f"the event stream broke off: {cause}")
        except ApiError as error:
            if error.status not in RETRIED:
                raise
            lost = error
        failures = 1 if after > before else failures + 1
        if failures > transport.retries:
            raise lost
        transport.sleep(pause(failures - 1, None))


def stream_events(transport: Transport, path: str, after: int) -> Iterator[Event]:
    """The events of one connection.

    Raises: ApiError; httpx.TransportError where the connection is lost.
    """
    headers = {"Accept": "text/event-stream", "Last-Event-ID": str(after)}
    limits = httpx.Timeout(transport.http.timeout.connect, read=QUIET)
    with transport.stream(path, headers, timeout=limits) as response:
        for message in sse.messages(response.iter_lines()):
            event = Event.model_validate_json(message.data)
            if event.seq > after:
                after = event.seq
                yield event


def poll_events(transport: Transport, job_id: str, timeout: float) -> Iterator[Event]:
    """Every event until the job has ended; a stream could outlast `timeout` seconds without a word.

    Raises: WaitTimeout.
    """
    deadline, after = time.monotonic() + timeout, 0
    while True:
        page = transport.json("GET", f"/jobs/{job_id}/events", params={"after": after})
        yield from map(Event.model_validate, page["items"])
        after = page["next_after"]
        if page["finished"]:
            return
        if time.monotonic() >= deadline:
            raise WaitTimeout(f"job {job_id} has not finished within {timeout} s; it goes on")
        transport.sleep(min(POLL, max(0.0, deadline - time.monotonic())))
