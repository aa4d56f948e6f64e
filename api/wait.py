"""`Prefer: wait`: delay the answer to a POST until its job has ended."""

import asyncio
import time
import uuid
from functools import partial

from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from expunge.api.caller import Caller
from expunge.api.idempotency import Answer
from expunge.api.schemas.jobs import Job
from expunge.api.serializers import read_job
from expunge.api.services import Services
from expunge.store.statuses import JobStatus


async def answer_when_ended(services: Services, caller: Caller, answer: Answer, seconds: int) -> JSONResponse:
    """The answer, delayed for at most `seconds` until the job has ended: then 200 instead of 202.

    When the caller has too many open streams it is not delayed, as the job exists in any case.
    """
    job = answer.body
    if not seconds or not isinstance(job, Job) or not services.stream_limits.has_room(caller):
        return answer.response()
    with services.stream_limits.acquire(caller):
        job = await wait_for_job(services, caller, job.id, deadline=time.monotonic() + seconds)
    answer.body = job
    answer.headers = {**answer.headers, "Preference-Applied": f"wait={seconds}"}
    if job.status in JobStatus.terminal():
        answer.status = 200
        answer.headers.pop("Retry-After", None)
    return answer.response()


async def wait_for_job(services: Services, caller: Caller, job_id: uuid.UUID, deadline: float) -> Job:
    """The job once it has ended, or as it is at the deadline; holds no connection while it waits."""
    check_key = False
    with services.event_listener.subscribe(str(job_id)) as wake_up:
        while True:
            wake_up.clear()
            job = await run_in_threadpool(partial(read_job, check_key=check_key), services, caller, job_id)
            check_key = True
            remaining = deadline - time.monotonic()
            if job.status in JobStatus.terminal() or remaining <= 0:
                return job
            try:
                await asyncio.wait_for(wake_up.wait(), min(remaining, services.event_listener.poll_interval))
            except TimeoutError:
                continue
