"""Clients in a process of their own against real API processes."""

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.cluster import Fleet, fleet
from tests.support.places import PYTHONPATH

__all__ = ["fleet"]
ROOT = Path(__file__).parents[2]


@pytest.fixture
def watch(fleet: Fleet) -> Callable[[str, list[uuid.UUID], int], subprocess.Popen[str]]:
    """watch(url, jobs, clients): so many event streams at once, all open."""

    def watching(url: str, jobs: list[uuid.UUID], clients: int) -> subprocess.Popen[str]:
        argv = [
            sys.executable,
            "-m",
            "benchmarks.under_load.client",
            "watch",
            "--url",
            url,
            "--clients",
            str(clients),
            "--jobs",
            *map(str, jobs),
        ]
        process = subprocess.Popen(
            argv, cwd=ROOT, env={**os.environ, "LOAD_KEY": fleet.key()}, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout
        assert process.stdout.readline() == "open\n"
        return process

    return watching


@pytest.mark.parametrize("clients", [200, pytest.param(1000, marks=pytest.mark.slow)])
def test_every_event_stream_on_one_api_process_gets_all_events_of_its_job(fleet, watch, clients):
    _, url = fleet.api(EXPUNGE_MAX_STREAMS="4000")
    jobs = [fleet.post(steps=4) for _ in range(20)]
    process = watch(url, jobs, clients)
    fleet.worker(), fleet.loops()
    found = json.loads(process.communicate()[0])["events_by_job"]
    assert process.returncode == 0
    for job_id in jobs:
        job = fleet.job(job_id)
        assert job.status == "succeeded"
        assert job.version >= 3
        assert found[str(job_id)] == [job.version] * (clients // len(jobs))


@pytest.mark.slow
def test_mixed_traffic_and_event_streams_on_the_whole_service_hold_every_bar_of_correctness():
    argv = [
        sys.executable,
        "-m",
        "benchmarks.load",
        "--only",
        "mixing",
        "streaming",
        "--dry",
        "--seconds",
        "5",
        "--clients",
        "100",
    ]
    done = subprocess.run(
        argv, cwd=ROOT, env={**os.environ, "PYTHONPATH": PYTHONPATH}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1] == "all 4 bars held"
    assert all(line.startswith("held") for line in lines[:-1])
