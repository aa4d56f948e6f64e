"""The ledger: what was accepted beside what became of it, read from the database, the artifact store and
Redis themselves.
"""

import hashlib
import json
import os
import sys
import time
import uuid
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import redis
from sqlalchemy import func, select

from expunge.store import db
from expunge.store.blobs import MARKER, QUARANTINE, Blobs
from expunge.store.models import Artifact, Checkpoint, Event, Job
from expunge.store.queue_announcements import QUEUE
from expunge.store.settings import Settings
from expunge.store.statuses import JobStatus
from expunge.worker import sweeper
from tests.support.cluster import Fleet, until
from tests.support.stored import keys_older_than

# Where the JSON and the plots go
REPORTS = Path(os.environ.get("EXPUNGE_REPORTS") or Path(__file__).parents[2] / "build")
MANIFEST = "manifest.json"


@dataclass
class Ledger:
    """Counts of one run; every field from `jobs_lost` on must be 0."""

    faults_injected: int
    jobs_accepted: int
    ended: dict[str, int]
    attempts: int
    artifacts: int
    steps_repeated: int = 0  # by attempts that went on from a checkpoint
    jobs_lost: int = 0
    jobs_not_accepted: int = 0
    not_ended: int = 0
    ended_more_than_once: int = 0
    gaps_in_events: int = 0
    published_twice: int = 0
    published_by_failures: int = 0
    succeeded_with_nothing: int = 0
    bytes_wrong: int = 0
    manifests_wrong: int = 0
    downloads_wrong: int = 0
    orphans: int = 0
    attempts_too_many: int = 0
    repeats_too_long: int = 0
    messages_left: int = 0
    of: list[str] = field(default_factory=list)

    @property
    def wrong(self) -> dict[str, int]:
        """What must be 0 and is not."""
        counts = asdict(self)
        names = list(counts)
        return {n: counts[n] for n in names[names.index("jobs_lost") : names.index("of")] if counts[n]}

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self) | {"wrong": self.wrong}, indent=1) + "\n")


BOOK: list[Ledger] = []  # of this process, one for each finished run


def total(book: list[Ledger]) -> Ledger:
    """All runs as one."""
    counts = [asdict(each) for each in book]
    summed: dict[str, Any] = {
        n: sum(c[n] for c in counts) for n in asdict(book[0]) if n not in ("ended", "of")
    }
    ended = sum((Counter(c["ended"]) for c in counts), Counter[str]())
    return Ledger(**summed, ended=dict(ended), of=[name for c in counts for name in c["of"]])


def told(book: Ledger) -> str:
    """The ledger for people."""
    ended = ", ".join(f"{n} {status}" for status, n in sorted(book.ended.items()))
    kinds = ", ".join(f"{n} x {name}" for name, n in Counter(book.of).most_common())
    lines = [
        f"faults injected             {book.faults_injected}   ({kinds})",
        f"jobs accepted               {book.jobs_accepted}   ({ended}; {book.attempts} attempts)",
        f"jobs lost                   {book.jobs_lost + book.not_ended}",
        f"artifacts published         {book.artifacts}",
        f"artifacts published twice   {book.published_twice + book.published_by_failures}",
        f"bytes wrong                 {book.bytes_wrong + book.manifests_wrong + book.downloads_wrong}",
        f"orphans after a sweep       {book.orphans}",
        f"gaps in events, double ends {book.gaps_in_events + book.ended_more_than_once}",
        f"attempts too many           {book.attempts_too_many}",
        (
            f"steps repeated              {book.steps_repeated}   (more than a checkpoint's interval at a"
            f" time: {book.repeats_too_long})"
        ),
        f"messages left               {book.messages_left}",
    ]
    return "\n".join(lines)


def read(
    settings: Settings,
    accepted: Collection[uuid.UUID],
    *,
    faults: int,
    kills: int,
    names: list[str],
    sweep: bool = False,
    api: httpx.Client | None = None,
) -> Ledger:
    """The ledger at quiet. accepted: ids the clients were given. kills: faults that may each have cost one
    job one attempt.

    sweep: let the sweeper have its turn, as if a day had passed, and count what is stored though no row names
    it. api: also download every artifact.
    """
    blobs = Blobs(settings.artifacts_url)
    if sweep:
        sweeper.turn(settings.model_copy(update={"sweep_after_seconds": -60.0}))
    with db.transaction(settings.database_url.get_secret_value()) as session:
        jobs = {job.id: job for job in session.scalars(select(Job))}
        files = list(session.scalars(select(Artifact).where(Artifact.job_id.is_not(None))))
        seqs = session.execute(
            select(Event.job_id, func.count(), func.min(Event.seq), func.max(Event.seq)).group_by(
                Event.job_id
            )
        ).all()
        ends = Counter(session.scalars(select(Event.job_id).where(Event.type.in_(JobStatus.terminal()))))
        named = set(session.scalars(select(Artifact.key)))
        named |= {f["key"] for row in session.scalars(select(Checkpoint)) for f in row.files.values()}
        repeats = {
            job.id: list(
                repeated(session.scalars(select(Event).where(Event.job_id == job.id).order_by(Event.seq)))
            )
            for job in jobs.values()
            if job.attempt > 1
        }
    known = set(accepted)
    ledger = Ledger(
        faults_injected=faults,
        jobs_accepted=len(known),
        ended=dict(Counter(job.status for job in jobs.values())),
        attempts=sum(job.attempt for job in jobs.values()),
        artifacts=len(files),
        steps_repeated=sum(steps for each in repeats.values() for steps, _ in each),
        of=names,
    )
    ledger.jobs_lost = len(known - set(jobs))
    ledger.jobs_not_accepted = len(set(jobs) - known)
    ledger.not_ended = sum(job.status not in JobStatus.terminal() for job in jobs.values())
    ledger.ended_more_than_once = sum(n > 1 for n in ends.values())
    ledger.gaps_in_events = sum(
        (low, high, n) != (1, jobs[j].version, jobs[j].version) for j, n, low, high in seqs
    )
    bundles: dict[uuid.UUID, list[Artifact]] = {}
    for file in files:
        bundles.setdefault(file.job_id, []).append(file)  # type: ignore[arg-type]
    ledger.published_twice = sum(twice(bundle) for bundle in bundles.values())
    ledger.published_by_failures = sum(
        len(bundle) for job_id, bundle in bundles.items() if jobs[job_id].status != "succeeded"
    )
    ledger.succeeded_with_nothing = sum(
        job.status == "succeeded" and job.id not in bundles for job in jobs.values()
    )
    ledger.bytes_wrong = sum(stored(blobs, file.key) != (file.size, file.sha256) for file in files)
    ledger.manifests_wrong = sum(not manifest_is_true(blobs, bundle) for bundle in bundles.values())
    ledger.downloads_wrong = (
        sum(downloaded(api, file) != (f'"{file.sha256}"', file.sha256) for file in files) if api else 0
    )
    ledger.attempts_too_many = max(0, ledger.attempts - len(jobs) - kills)
    ledger.repeats_too_long = sum(
        steps > interval(jobs[j].spec) * (1 + damaged)
        for j, each in repeats.items()
        for steps, damaged in each
    )
    ledger.messages_left = waiting(settings) + taken(settings)
    if sweep:
        ledger.orphans = sum(key not in named for key in keys_of(blobs))
    return ledger


def close(fleet: Fleet) -> None:
    """Read the ledger of a fleet into the BOOK, and end its processes.

    Once; an entry that is wrong fails the test. Jobs that have not ended are cancelled.
    """
    if fleet.closed:
        fleet.end()
        return
    left = [job_id for job_id in fleet.accepted if fleet.job(job_id).status not in JobStatus.terminal()]
    for job_id in left:
        fleet.cancel(job_id)
    # A test may end before its jobs or duplicates, or with its workers dead
    if left or not quiet(fleet.settings):
        fleet.go.touch()
        for program, start in (("celery", fleet.worker), ("expunge.worker.loops", fleet.loops)):
            if not fleet.runs(program):
                start()
        until(lambda: all(fleet.job(job_id).status in JobStatus.terminal() for job_id in left), 180)
        until(lambda: quiet(fleet.settings), 180)
    book = read(
        fleet.settings,
        fleet.accepted,
        faults=len(fleet.faults),
        kills=fleet.kills,
        names=fleet.faults,
        sweep=True,
    )
    BOOK.append(book)
    fleet.closed = True
    fleet.end()
    assert not book.wrong, book


def twice(bundle: list[Artifact]) -> bool:
    """Whether a job has two files of one name, or files of two attempts."""
    return (
        len({file.name for file in bundle}) < len(bundle)
        or len({file.key.rpartition("/")[0] for file in bundle}) > 1
    )


def repeated(events: Iterable[Event]) -> Iterator[tuple[int, int]]:
    """(steps told of again, damaged checkpoints passed over) of every attempt but the first, from a job's
    events.
    """
    at = damaged = 0
    fresh = False
    for event in events:
        report = event.data.get("progress") or {}
        if event.type == "started":
            fresh, damaged = True, 0
        elif event.data.get("code") == "checkpoint_corrupt":
            damaged += 1
        elif report.get("phase") == "erase" and "message" not in report:
            if fresh and at:
                yield max(0, at - report["step"] + 1), damaged
            at, fresh = report["step"], False


def interval(spec: dict[str, Any]) -> int:
    """Steps between two checkpoints of a job; as many as you like for a method that has none."""
    return int(spec["every"] if "every" in spec else spec["method"].get("checkpoint_every", sys.maxsize))


def stored(blobs: Blobs, key: str) -> tuple[int, str]:
    """(size, sha256) of what the store holds now."""
    content = b"".join(blobs.read(key))
    return len(content), hashlib.sha256(content).hexdigest()


def manifest_is_true(blobs: Blobs, bundle: list[Artifact]) -> bool:
    """Whether the manifest, where there is one, tells of each of its files what the database tells."""
    rows = {file.name: file for file in bundle}
    if MANIFEST not in rows:
        return True
    told = json.loads(b"".join(blobs.read(rows[MANIFEST].key)))["files"]
    return all(
        name in rows and (rows[name].sha256, rows[name].size) == (entry["sha256"], entry["size"])
        for name, entry in told.items()
    )


def downloaded(api: httpx.Client, file: Artifact) -> tuple[str | None, str]:
    """(ETag, sha256 of the bytes) as a client gets them."""
    answer = api.get(f"/artifacts/{file.id}/content")
    return answer.headers.get("etag"), hashlib.sha256(answer.content).hexdigest()


def keys_of(blobs: Blobs) -> list[str]:
    """Everything that is stored but the marker and what was set aside; in a directory, half-written files
    too.
    """
    if blobs.folder is None:
        return list(keys_older_than(blobs, timedelta(seconds=-60)))
    found = (str(p.relative_to(blobs.folder)) for p in blobs.folder.rglob("*") if p.is_file())
    return [key for key in found if key != MARKER and not key.startswith(QUARANTINE)]


def waiting(settings: Settings) -> int:
    """Messages that no worker took yet."""
    with redis.Redis.from_url(settings.redis_url.get_secret_value()) as client:
        return int(client.llen(QUEUE))  # type: ignore[arg-type]


def taken(settings: Settings) -> int:
    """Messages that a worker took, living or dead, and did not acknowledge."""
    with redis.Redis.from_url(settings.redis_url.get_secret_value()) as client:
        return int(client.hlen("unacked"))  # type: ignore[arg-type]


def quiet(settings: Settings) -> bool:
    """Nothing waits and nothing is taken, and so a moment later: a message on its way from one to the other
    is in neither.
    """
    if waiting(settings) or taken(settings):
        return False
    time.sleep(0.2)
    return waiting(settings) == taken(settings) == 0
