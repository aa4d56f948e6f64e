"""The chaos soak, `make soak MINUTES=20`: a stream of real erase jobs while a random fault strikes every few
seconds; then the ledger.

Jobs are short ESD runs on the bundled model, of a few specs, each first run undisturbed: every delta must end
in its spec's sha256.

They have the attempts that every job has. A job that is struck in each of them fails, as it must: with a
retryable code, its events telling of a lost attempt for each. Such failures are counted, and retried once the
strikes are over, as a client would; any other failure is wrong, and so is one of a retry.
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
from sqlalchemy import select

from expunge.store import db
from expunge.store.models import Artifact, Event, Job
from expunge.store.settings import Settings
from tests.support import ledger
from tests.support.cluster import alive, until
from tests.support.memory import CHILD, Watch, draw, grown, most
from tests.support.whole_service import Stage

REPORT, PICTURE = ledger.REPORTS / "soak.json", ledger.REPORTS / "soak.png"
# Minutes from which on a run's figures are kept there
RESULT, LONG = (Path(__file__).parent / "results" / "soak.json", 10)
LORA = "pytorch_lora_weights.safetensors"
TINY = {"name": "esd", "batch_size": 1, "trajectories": 1, "sampling_steps": 2, "lora": {"rank": 2}}
WORDS = ("church", "dog", "trumpet", "saw")
SPECS = [
    {
        "concepts": [w],
        "method": {**TINY, "steps": 40, "checkpoint_every": 8},
        "evaluation": {"enabled": False},
    }
    for w in WORDS
]
PATIENT: dict[str, Any] = {
    "lease_seconds": 12,  # with all cores taken, loading torch has held a heartbeat up for six
    "heartbeat_seconds": 1,
    "max_attempts": Settings.model_fields["max_attempts"].default,
    "soft_shutdown_seconds": 10,
    "cancel_seconds": 5,
    "redispatch_after_seconds": 10,
}
WAITING = 6  # jobs that wait, at most: more would only be a longer queue


class Soak:
    """The stage, its processes by role, and the faults that strike them.

    The first API, the first loops and the first worker's parent live through it all, so that their memory can
    be watched.
    """

    def __init__(self, stage: Stage, seed: int) -> None:
        self.stage, self.random, self.over = stage, random.Random(seed), threading.Event()
        self.apis = [stage.api(), stage.api()]
        self.loops = [stage.loops(), stage.loops()]
        self.workers = [self.worker() for _ in range(2)]
        self.kills, self.refused = 0, 0
        self.watch = Watch(stage.direct, self.watched, lambda: len(stage.accepted))

    def watched(self) -> dict[str, list[psutil.Process]]:
        children = [child for worker in self.workers if worker.is_running() for child in worker.children()]
        return {
            "API": [self.apis[0][0]],
            "loops": [self.loops[0]],
            "worker": [self.workers[0]],
            CHILD: children,
        }

    def worker(self) -> psutil.Popen:
        return self.stage.worker(EXPUNGE_RUNNER="")

    # Faults

    def faults(self) -> list[Callable[[], None]]:
        return [
            self.worker_killed,
            self.child_killed,
            self.worker_frozen,
            self.worker_stopped,
            self.redis_killed,
            self.redis_emptied,
            self.redis_cut,
            self.postgres_restarted,
            self.postgres_cut,
            self.api_killed,
            self.loops_killed,
        ]

    def worker_killed(self) -> None:
        for process in [self.workers[1], *self.workers[1].children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.workers[1] = self.worker()

    def child_killed(self) -> None:
        for child in self.random.choice(self.workers).children():
            child.kill()

    def worker_frozen(self) -> None:
        worker = self.random.choice(self.workers)
        family = [worker, *worker.children(recursive=True)]
        for number in (signal.SIGSTOP, signal.SIGCONT):
            for process in family:
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(number)
            time.sleep(PATIENT["lease_seconds"] + 2 if number == signal.SIGSTOP else 0)

    def worker_stopped(self) -> None:
        self.workers[1].terminate()
        self.workers[1] = self.worker()

    def redis_killed(self) -> None:
        self.stage.kill("redis")
        time.sleep(1)
        self.stage.open("redis")

    def redis_emptied(self) -> None:
        import redis

        with redis.Redis.from_url(self.stage.settings.redis_url.get_secret_value()) as client:
            client.flushall()

    def redis_cut(self) -> None:
        self.cut("redis")

    def postgres_restarted(self) -> None:
        self.stage.kill("postgres")
        self.stage.open("postgres")

    def postgres_cut(self) -> None:
        self.cut("postgres")

    def cut(self, name: str) -> None:
        self.stage.proxies[name].cut()
        time.sleep(2)
        self.stage.proxies[name].mend()

    def api_killed(self) -> None:
        self.apis[1][0].kill()
        self.apis[1] = self.stage.api()

    def loops_killed(self) -> None:
        self.loops[1].kill()
        self.loops[1] = self.stage.loops()

    # The stream

    def strike(self, every: float) -> None:
        while not self.over.wait(self.random.uniform(0.5, 1.5) * every):
            fault = self.random.choice(self.faults())
            self.stage.faults.append(fault.__name__)
            self.watch.faults.append((self.watch.now(), fault.__name__))
            self.kills += fault.__name__ in (
                "worker_killed",
                "child_killed",
                "worker_frozen",
                "worker_stopped",
                "postgres_restarted",
                "postgres_cut",
            )
            fault()
            say(
                f"{time.strftime('%H:%M:%S')} {fault.__name__:20} accepted {len(self.stage.accepted)},"
                f" unfinished {self.waiting()}"
            )

    def waiting(self) -> int:
        with suppress(Exception):
            return self.stage.unfinished()
        return -1

    def pour(self) -> None:
        """Post job after job, each with a key of its own, until it is accepted by one API or the other."""
        n = 0
        while not self.over.is_set():
            if self.waiting() >= WAITING:
                time.sleep(0.5)
                continue
            key, n = uuid.uuid4().hex, n + 1
            while True:
                with suppress(httpx.TransportError):
                    answer = self.stage.post(self.random.choice(self.apis)[1], key, **SPECS[n % len(SPECS)])
                    if answer.status_code == 202:
                        break
                    assert answer.status_code in (409, 503), answer.text
                self.refused += 1
                time.sleep(0.3)


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def deltas(stage: Stage) -> dict[str, set[str]]:
    """Concept to the sha256s that its deltas ended in."""
    found: dict[str, set[str]] = {}
    with db.transaction(stage.url) as session:
        rows = session.execute(
            select(Job.spec, Artifact.sha256)
            .join(Artifact, Artifact.job_id == Job.id)
            .where(Artifact.name == LORA)
        )
        for spec, sha256 in rows:
            found.setdefault(spec["concepts"][0]["name"], set()).add(sha256)
    return found


# Code of such an end: reason of the hand-overs before it
STRUCK = {"worker_lost": "worker_lost", "database_error": "database_away"}


def failures(stage: Stage) -> tuple[list[uuid.UUID], list[Any]]:
    """(jobs that were struck in each of their attempts, what else ended otherwise than in success)."""
    struck, others = list[uuid.UUID](), list[Any]()
    with db.transaction(stage.url) as session:
        for job in session.scalars(select(Job).where(Job.status != "succeeded")):
            reasons = session.scalars(
                select(Event.data).where(Event.job_id == job.id, Event.type == "requeued")
            ).all()
            lost = [data["reason"] for data in reasons if data["reason"] in STRUCK.values()]
            by_strikes = job.status == "failed" and job.error["code"] in STRUCK and job.error["retryable"]
            if by_strikes and job.attempt == job.max_attempts == len(lost) + 1:
                struck.append(job.id)
            else:
                others.append((str(job.id), job.status, job.error))
    return struck, others


def retry(stage: Stage, url: str, job_ids: list[uuid.UUID]) -> list[uuid.UUID]:
    """The jobs again, by the route that clients have for it."""
    made = []
    for job_id in job_ids:
        answer = httpx.post(f"{url}/jobs/{job_id}/retry", headers=stage.bearer, timeout=30)
        assert answer.status_code == 202, answer.text
        made.append(uuid.UUID(answer.json()["id"]))
    stage.accepted += made
    return made


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--every", type=float, default=6, help="seconds between faults, on average")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    folder = Path(tempfile.mkdtemp(prefix="expunge-soak-"))
    stage = Stage(folder, **PATIENT)
    try:
        soak = Soak(stage, args.seed)
        for spec in SPECS:
            assert stage.post(soak.apis[0][1], **spec).status_code == 202
        until(lambda: stage.unfinished() == 0, 900)
        undisturbed = deltas(stage)
        say(f"undisturbed: {len(undisturbed)} specs")
        threads = [
            threading.Thread(target=soak.pour),
            threading.Thread(target=soak.strike, args=(args.every,)),
        ]
        quiet = threading.Event()
        watching = threading.Thread(target=soak.watch.run, args=(quiet,), daemon=True)
        for thread in (*threads, watching):
            thread.start()
        soak.over.wait(60 * args.minutes)
        soak.over.set()
        for thread in threads:
            thread.join()
        until(lambda: all(alive(url) for _, url in soak.apis))
        until(lambda: stage.unfinished() == 0, 900)
        quiet.set()
        watching.join()
        struck, _ = failures(stage)
        again = retry(stage, soak.apis[0][1], struck)
        book = stage.ledger(soak.kills)
        struck, failed = failures(stage)
        failed += [
            (str(job_id), "the retry of a job that was struck failed", None)
            for job_id in again
            if job_id in struck
        ]
        ended = deltas(stage)
    finally:
        stage.end()
    strays = {name: sorted(found) for name, found in ended.items() if found != undisturbed[name]}
    say(ledger.told(book))
    say(
        f"struck in every attempt     {len(struck)}   (failed as {' or '.join(STRUCK)}, retried, and"
        f" succeeded: {len(again)})"
    )
    say(f"refused and repeated         {soak.refused}")
    say(f"deltas unlike the undisturbed {len(strays)}")
    slopes = soak.watch.slopes()
    for role, value in slopes.items():
        last = [sample["rss"] for sample in soak.watch.samples if sample["role"] == role][-1]
        growth = (
            f"{value:+.2f} MiB a hundred jobs (at most {most(role):.0f})"
            if value is not None
            else "too few jobs to say how it grows"
        )
        say(f"memory of {role:18} {last:.0f} MiB, {growth}")
    book.write(REPORT)
    more = {
        "strays": strays,
        "memory_slopes": slopes,
        "memory": soak.watch.samples,
        "strikes": soak.watch.faults,
        "jobs": soak.watch.counts,
    }
    counts = json.loads(REPORT.read_text())
    settings = {
        "max_attempts": stage.settings.max_attempts,
        "lease_seconds": stage.settings.lease_seconds,
        "every": args.every,
        "seed": args.seed,
    }
    figures = {
        "minutes": args.minutes,
        "settings": settings,
        "struck_in_every_attempt": len(struck),
        "retried": len(again),
        "refused": soak.refused,
    }
    REPORT.write_text(json.dumps(counts | more | figures) + "\n")
    draw(soak.watch, PICTURE)
    if args.minutes >= LONG:
        kept = {
            **counts,
            "of": Counter(counts["of"]),
            **figures,
            "strays": strays,
            "memory_slopes": slopes,
            "failed": failed,
        }
        RESULT.write_text(json.dumps(kept, indent=1) + "\n")
    for job_id, status, error in failed:
        say(f"{job_id} {status}: {error}")
    leaks = grown(slopes)
    say(
        f"wrong: {book.wrong or 'nothing'}; failed otherwise: {len(failed)}; memory grows:"
        f" {leaks or 'nowhere'}; logs in {folder}; picture: {PICTURE}"
    )
    return 1 if book.wrong or strays or failed or leaks else 0


if __name__ == "__main__":
    raise SystemExit(main())
