"""Clients of the service, in a process of their own: `python -m benchmarks.under_load.client WHAT …`; one
line of JSON says what they saw.

LOAD_KEY in the environment is the API key.
"""

import argparse
import asyncio
import hashlib
import http.client
import json
import os
import sys
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from benchmarks.under_load.service import JOB
from expunge.store.statuses import JobStatus

Seen = dict[str, Any]
PAUSE = 0.1  # seconds between two jobs, or tasks, that are to find an idle worker
BEARER = {"Authorization": f"Bearer {os.environ.get('LOAD_KEY', '')}"}


def session(connections: int) -> aiohttp.ClientSession:
    """Kept connections, as many at once; no limit on how long a stream lasts."""
    patience = aiohttp.ClientTimeout(total=None, sock_connect=60, sock_read=120)
    return aiohttp.ClientSession(
        headers=BEARER, connector=aiohttp.TCPConnector(limit=connections), timeout=patience
    )


async def hammer(url: str, connections: int, seconds: float) -> Seen:
    """GET one address over and over on every connection."""
    async with session(connections) as http:
        done, end = 0, time.perf_counter() + seconds

        async def one() -> None:
            nonlocal done
            while time.perf_counter() < end:
                async with http.get(url) as answer:
                    await answer.read()
                    if answer.status != 200:
                        raise RuntimeError(f"{url} answered {answer.status}")
                done += 1

        begun = time.perf_counter()
        await asyncio.gather(*(one() for _ in range(connections)))
        return {"requests": done, "seconds": time.perf_counter() - begun}


def download(url: str, times: int) -> Seen:
    """GET one file so many times, one after the other, into a buffer that is thrown away."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
    buffer, size, begun = memoryview(bytearray(1 << 20)), 0, time.perf_counter()
    for _ in range(times):
        connection.request("GET", parts.path, headers=BEARER)
        answer = connection.getresponse()
        if answer.status != 200:
            raise RuntimeError(f"{url} answered {answer.status}")
        while got := answer.readinto(buffer):
            size += got
    return {"bytes": size, "seconds": time.perf_counter() - begun}


async def post(url: str, times: int, wait: bool, labels: dict[str, str]) -> Seen:
    """POST so many jobs, one after the other; with `wait`, each when the one before has ended.

    `sent`: when, in seconds since the epoch.
    """
    accepted: list[str] = []
    sent: list[float] = []
    async with session(2) as http:
        for _ in range(times):
            sent.append(time.time())
            async with http.post(f"{url}/jobs/erase", json={**JOB, "labels": labels}) as answer:
                answer.raise_for_status()
                accepted.append((await answer.json())["id"])
            while wait and await status(http, url, accepted[-1]) not in JobStatus.terminal():
                await asyncio.sleep(PAUSE)
            await asyncio.sleep(PAUSE if wait else 0)
    return {"accepted": accepted, "sent": sent}


async def status(http: aiohttp.ClientSession, url: str, job_id: str) -> str:
    async with http.get(f"{url}/jobs/{job_id}") as answer:
        return str((await answer.json())["status"])


def celery(times: int) -> Seen:
    """So many bare tasks, one after the other: seconds until each was begun, and until its result was
    back.
    """
    from benchmarks.under_load.bare import pong

    begun: list[float] = []
    back: list[float] = []
    for _ in range(times):
        at = time.time()
        begun.append(pong.apply_async().get(timeout=60) - at)
        back.append(time.time() - at)
        time.sleep(PAUSE)
    return {"one_way": begun, "round_trip": back}


async def events(http: aiohttp.ClientSession, url: str, job_id: str) -> AsyncIterator[tuple[int, str]]:
    """(seq, type) of a job's events as they come."""
    async with http.get(f"{url}/jobs/{job_id}/events", headers={"Accept": "text/event-stream"}) as answer:
        answer.raise_for_status()
        fields: dict[str, str] = {}
        async for raw in answer.content:
            line = raw.decode().rstrip("\r\n")
            if line:
                name, _, value = line.partition(": ")
                fields[name] = value
            elif "id" in fields:
                yield int(fields["id"]), fields["event"]
                fields = {}


async def watch(url: str, jobs: list[str], clients: int) -> Seen:
    """So many streams at once, spread over the jobs, each to its end. Writes a line `open` once all are."""
    left = clients
    async with session(0) as http:

        async def one(job_id: str) -> list[int]:
            nonlocal left
            came: list[tuple[int, str]] = []
            async for event in events(http, url, job_id):
                if not came:
                    left -= 1
                    if not left:
                        sys.stdout.write("open\n")
                        sys.stdout.flush()
                came.append(event)
            return [seq for seq, _ in came] if came and came[-1][1] in JobStatus.terminal() else []

        found = await asyncio.gather(*(one(jobs[i % len(jobs)]) for i in range(clients)))
    whole: dict[str, list[int]] = defaultdict(list)
    for i, seqs in enumerate(found):
        whole[jobs[i % len(jobs)]].append(len(seqs) if seqs == list(range(1, len(seqs) + 1)) else 0)
    return {"events_by_job": whole}  # of each client of the job; 0 where there was a gap, or no end


class Mixed:
    """Users of the service: each posts a job, follows it, looks at it, downloads what it made; and readers,
    who only look.
    """

    def __init__(self, http: aiohttp.ClientSession, url: str, seconds: float) -> None:
        self.http, self.url, self.end = http, url, time.monotonic() + seconds
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.statuses: Counter[int] = Counter()
        self.accepted: list[str] = []
        self.wrong: list[str] = []

    async def ask(self, kind: str, method: str, path: str, want: int = 200, **more: Any) -> tuple[Any, bytes]:
        """The answer's headers and body; its time is noted."""
        begun = time.perf_counter()
        async with self.http.request(method, self.url + path, **more) as answer:
            body = await answer.read()
            self.seconds[kind].append(time.perf_counter() - begun)
            self.statuses[answer.status] += 1
            if answer.status != want:
                self.wrong.append(f"{method} {path}: {answer.status}")
            return answer.headers, body

    async def follow(self, job_id: str) -> None:
        """All events, and how long the first took to come."""
        begun, seen = time.perf_counter(), 0
        async for seq, _ in events(self.http, self.url, job_id):
            if not seen:
                self.seconds["first event"].append(time.perf_counter() - begun)
                self.statuses[200] += 1
            if seq != seen + 1:
                self.wrong.append(f"{job_id}: event {seq} after {seen}")
            seen = seq

    async def user(self) -> None:
        while time.monotonic() < self.end:
            _, body = await self.ask(
                "POST", "POST", "/jobs/erase", 202, json={**JOB, "labels": {"kib": "64"}}
            )
            job_id = json.loads(body)["id"]
            self.accepted.append(job_id)
            await self.follow(job_id)
            _, body = await self.ask("GET", "GET", f"/jobs/{job_id}")
            for file in json.loads(body)["artifacts"]:
                _, content = await self.ask("download", "GET", f"/artifacts/{file['id']}/content")
                if hashlib.sha256(content).hexdigest() != file["sha256"]:
                    self.wrong.append(f"{file['id']}: other bytes")

    async def reader(self) -> None:
        while time.monotonic() < self.end:
            await self.ask("list", "GET", "/jobs?limit=20")
            for job_id in self.accepted[-5:]:
                await self.ask("GET", "GET", f"/jobs/{job_id}")
                await asyncio.sleep(0.05)


async def mixed(url: str, seconds: float, users: int, readers: int) -> Seen:
    """POST, GET, SSE and downloads at once for so long."""
    async with session(0) as http:
        made = Mixed(http, url, seconds)
        begun = time.monotonic()
        await asyncio.gather(*(made.user() for _ in range(users)), *(made.reader() for _ in range(readers)))
        took = time.monotonic() - begun
    return {
        "accepted": made.accepted,
        "statuses": {str(k): v for k, v in made.statuses.items()},
        "seconds": made.seconds,
        "wrong": made.wrong,
        "took": took,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["hammer", "download", "post", "celery", "watch", "mixed"])
    parser.add_argument("--url", default="")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--times", type=int, default=1)
    parser.add_argument("--wait", action="store_true")
    parser.add_argument("--kib", default="1")
    parser.add_argument("--jobs", nargs="*", default=[])
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--users", type=int, default=8)
    parser.add_argument("--readers", type=int, default=4)
    args = parser.parse_args()
    match args.what:
        case "hammer":
            seen = asyncio.run(hammer(args.url, args.connections, args.seconds))
        case "download":
            seen = download(args.url, args.times)
        case "post":
            seen = asyncio.run(post(args.url, args.times, args.wait, {"kib": args.kib}))
        case "celery":
            seen = celery(args.times)
        case "watch":
            seen = asyncio.run(watch(args.url, args.jobs, args.clients))
        case "mixed":
            seen = asyncio.run(mixed(args.url, args.seconds, args.users, args.readers))
    sys.stdout.write(json.dumps(seen) + "\n")


if __name__ == "__main__":
    main()
