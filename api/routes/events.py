"""A job's events: pages of JSON, or a live stream (SSE) that resumes by Last-Event-ID."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Scope, Send

from expunge.api.auth import key_still_valid
from expunge.api.caller import Caller
from expunge.api.deps import JSON, JobsReader, ServicesDep, accepts
from expunge.api.problems import bad_header
from expunge.api.responses import problem_responses
from expunge.api.schemas.jobs import Event, EventPage
from expunge.api.services import Services
from expunge.api.stream_limits import StreamSlot
from expunge.store import events
from expunge.store.statuses import JobStatus

STREAM = "text/event-stream"
HEARTBEAT = 15  # seconds
PAGE = 500
RECONNECT = 1000  # milliseconds that a browser waits before it reconnects
router = APIRouter(tags=["jobs"])
ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": (
            "A page of events. With `Accept: text/event-stream`: every event as it happens, with its seq as"
            " `id`, until the job has ended."
        ),
        "content": {STREAM: {"schema": {"type": "string"}}},
    },
    204: {"description": "For a stream: no further event will follow."},
    **problem_responses("bad_header", "not_found", "invalid_request"),
}


class KeyEnded(Exception):
    """The API key of a stream has ended, or lost its scope."""


def read_page(
    services: Services, caller: Caller, job_id: uuid.UUID, after: int, limit: int, *, check_key: bool = False
) -> EventPage:
    """The events after the seq `after`, and whether they are the last of a job that has ended.

    `check_key`: check first that the caller's key is still valid.
    Raises: NotFound; KeyEnded.
    """
    with services.reading() as session:
        if check_key and not key_still_valid(session, caller, "jobs:read"):
            raise KeyEnded
        rows = events.list_events(session, caller.tenant_id, job_id, after=after, limit=limit)
    items = [Event.model_validate(row) for row in rows if row.seq is not None]
    last_seq = items[-1].seq if items else after
    finished = rows[0].status in JobStatus.terminal() and last_seq >= rows[0].version
    return EventPage(items=items, next_after=last_seq, finished=finished)


async def stream_events(
    services: Services, caller: Caller, job_id: uuid.UUID, first: EventPage
) -> AsyncIterator[ServerSentEvent]:
    """The events from the page `first` on, as long as the key is valid.

    Between events it waits for the listener's wake-up, or for the poll interval, without a connection.
    """
    services.metrics.streams.inc()
    found = first
    yield ServerSentEvent(retry=RECONNECT)
    with services.event_listener.subscribe(str(job_id)) as wake_up:
        while True:
            for item in found.items:
                yield ServerSentEvent(item.model_dump_json(), event=item.type, id=str(item.seq))
            if found.finished:
                return
            wake_up.clear()
            try:
                found = await run_in_threadpool(
                    partial(read_page, check_key=True), services, caller, job_id, found.next_after, PAGE
                )
            except KeyEnded:
                return
            if not found.items and not found.finished:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(wake_up.wait(), services.event_listener.poll_interval)


class LimitedEventSourceResponse(EventSourceResponse):
    """A stream that gives its slot back when it ends, however it ends."""

    slot: StreamSlot

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self.slot:
            await super().__call__(scope, receive, send)


def last_event_id(request: Request) -> int | None:
    """The seq in Last-Event-ID. Raises: Problem `bad_header`."""
    given = request.headers.get("last-event-id")
    if given in (None, ""):
        return None
    if not given.isdecimal() or len(given) > 18:
        raise bad_header("Last-Event-ID", "give the seq of the last event you received, a whole number")
    return int(given)


@router.get("/jobs/{job_id:uuid}/events", response_model=EventPage, responses=ANSWERS)
async def list_job_events(
    request: Request,
    job_id: uuid.UUID,
    services: ServicesDep,
    caller: JobsReader,
    media_type: Annotated[str, accepts(JSON, STREAM)],
    after: Annotated[int, Query(ge=0, le=2**53, description="Only events with a higher seq.")] = 0,
    limit: Annotated[int, Query(ge=1, le=PAGE, description="Events per page.")] = 100,
    _: Annotated[
        str | None,
        Header(
            alias="Last-Event-ID",
            description="For a stream: resume after this seq; takes precedence over `after`.",
        ),
    ] = None,
) -> Response | EventPage:
    """Read a job's events, as pages or as a live stream.

    A stream ends with the job, or when its API key ends. When no further event will follow (the job has ended
    and its last event was received) the answer is 204, which tells a browser's EventSource to stop
    reconnecting. The number of a tenant's open streams is limited; above it, the answer is 429.
    """
    if media_type == JSON:
        return await run_in_threadpool(read_page, services, caller, job_id, after, limit)
    resumed = last_event_id(request)
    first = await run_in_threadpool(
        read_page, services, caller, job_id, after if resumed is None else resumed, PAGE
    )
    if first.finished and not first.items:
        return Response(status_code=204)
    if request.state.head:
        return Response(media_type=STREAM)
    answer = LimitedEventSourceResponse(
        stream_events(services, caller, job_id, first),
        ping=HEARTBEAT,
        headers={"Cache-Control": "private, no-store"},
    )
    answer.slot = services.stream_limits.acquire(caller)
    return answer
