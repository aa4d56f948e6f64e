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

from expunge.api.auth import Caller, still
from expunge.api.deps import JSON, JobsReader, ServicesDep, accepts
from expunge.api.problems import bad_header, responses
from expunge.api.schemas import Event, EventPage
from expunge.api.services import Services
from expunge.api.stream_limits import Seat
from expunge.store import events
from expunge.store.statuses import JobStatus

STREAM = "text/event-stream"
HEARTBEAT = 15  # seconds
PAGE = 500
RECONNECT = 1000  # milliseconds a browser waits before it reconnects
router = APIRouter(tags=["jobs"])
ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": (
            "A page of events; or, for `Accept: text/event-stream`, every event as it happens, `id` being its"
            " seq, until the job has ended."
        ),
        "content": {STREAM: {"schema": {"type": "string"}}},
    },
    204: {"description": "Of a stream: nothing will follow."},
    **responses("bad_header", "not_found", "invalid_request"),
}


class Denied(Exception):
    """The key of a stream has ended, or lost its scope."""


def page(
    services: Services, caller: Caller, job_id: uuid.UUID, after: int, limit: int, *, again: bool = False
) -> EventPage:
    """Events after `after`, and whether they are the last: a terminal job's events are all there.

    `again`: look at the key first. Denied.
    """
    with services.reading() as session:
        if again and not still(session, caller, "jobs:read"):
            raise Denied
        rows = events.list_events(session, caller.tenant_id, job_id, after=after, limit=limit)
    items = [Event.model_validate(row) for row in rows if row.seq is not None]
    reached = items[-1].seq if items else after
    return EventPage(
        items=items,
        next_after=reached,
        finished=rows[0].status in JobStatus.terminal() and reached >= rows[0].version,
    )


async def stream(
    services: Services, caller: Caller, job_id: uuid.UUID, first: EventPage
) -> AsyncIterator[ServerSentEvent]:
    """Events from `first` on, as long as the key lives; sleeps without a connection until the listener rings
    or patience ends.
    """
    services.metrics.streams.inc()
    found = first
    yield ServerSentEvent(retry=RECONNECT)
    with services.hub.subscribe(str(job_id)) as bell:
        while True:
            for item in found.items:
                yield ServerSentEvent(item.model_dump_json(), event=item.type, id=str(item.seq))
            if found.finished:
                return
            bell.clear()
            try:
                found = await run_in_threadpool(
                    partial(page, again=True), services, caller, job_id, found.next_after, PAGE
                )
            except Denied:
                return
            if not found.items and not found.finished:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(bell.wait(), services.hub.patience)


class Seated(EventSourceResponse):
    """A stream that leaves its seat when it ends, however it ends."""

    seat: Seat

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self.seat:
            await super().__call__(scope, receive, send)


def last_event_id(request: Request) -> int | None:
    given = request.headers.get("last-event-id")
    if given in (None, ""):
        return None
    if not given.isdecimal() or len(given) > 18:
        raise bad_header("Last-Event-ID", "give the seq of the last event you saw, a whole number")
    return int(given)


@router.get("/jobs/{job_id:uuid}/events", response_model=EventPage, responses=ANSWERS)
async def list_job_events(
    request: Request,
    job_id: uuid.UUID,
    services: ServicesDep,
    caller: JobsReader,
    media_type: Annotated[str, accepts(JSON, STREAM)],
    after: Annotated[int, Query(ge=0, le=2**53, description="Only events with a greater seq.")] = 0,
    limit: Annotated[int, Query(ge=1, le=PAGE, description="Events on a page.")] = 100,
    _: Annotated[
        str | None,
        Header(
            alias="Last-Event-ID", description="Of a stream: resume after this seq; stronger than `after`."
        ),
    ] = None,
) -> Response | EventPage:
    """Read a job's events, as pages or as a live stream.

    A stream ends with the job, or with its API key. Where nothing will follow (the job has ended, and its
    last event was seen) the answer is 204, which tells a browser's EventSource to stop asking. A tenant's
    open streams are bounded: beyond that, 429.
    """
    if media_type == JSON:
        return await run_in_threadpool(page, services, caller, job_id, after, limit)
    resumed = last_event_id(request)
    first = await run_in_threadpool(
        page, services, caller, job_id, after if resumed is None else resumed, PAGE
    )
    if first.finished and not first.items:
        return Response(status_code=204)
    if request.state.head:
        return Response(media_type=STREAM)
    answer = Seated(
        stream(services, caller, job_id, first),
        ping=HEARTBEAT,
        headers={"Cache-Control": "private, no-store"},
    )
    answer.seat = services.seats.take(caller)
    return answer
