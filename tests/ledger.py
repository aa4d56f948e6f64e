"""The ledger: what was accepted beside what became of it, read from the database, the artifact store and Redis themselves."""

import hashlib
import json
import uuid
from collections import Counter
from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import redis
from sqlalchemy import func, select

from store import db
from store.blobs import Blobs
from store.models import TERMINAL, Artifact, Checkpoint, Event, Job
from store.queue import QUEUE
from store.settings import Settings


@dataclass
class Ledger:
    """Counts of one run; every field from `jobs_lost` on must be 0."""

    faults_injected: int
    jobs_accepted: int
    ended: dict[str, int]
    attempts: int
    artifacts: int
    messages_of_the_dead: int = 0  # taken by a worker that was killed; they come back as duplicates, which find nothing to do
    jobs_lost: int = 0
    jobs_not_accepted: int = 0
    not_ended: int = 0
    ended_more_than_once: int = 0
    gaps_in_events: int = 0
    published_twice: int = 0
    published_by_failures: int = 0
    bytes_wrong: int = 0
    orphans: int = 0
    attempts_too_many: int = 0
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
    summed: dict[str, Any] = {n: sum(c[n] for c in counts) for n in asdict(book[0]) if n not in ("ended", "of")}
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
        f"bytes wrong                 {book.bytes_wrong}",
        f"gaps in events, double ends {book.gaps_in_events + book.ended_more_than_once}",
        f"attempts too many           {book.attempts_too_many}",
    ]
    return "\n".join(lines)


def read(settings: Settings, accepted: Collection[uuid.UUID], *, faults: int, kills: int, names: list[str], sweep: bool = False) -> Ledger:
    """The ledger at quiet. accepted: ids the clients were given. kills: faults that may each have cost one job one attempt.

    sweep: also count stored objects that no row names (to be asked for after the sweeper has had its turn).
    """
    blobs = Blobs(settings.artifacts_url)
    with db.transaction(settings.database_url.get_secret_value()) as session:
        jobs = {job.id: job for job in session.scalars(select(Job))}
        files = list(session.scalars(select(Artifact).where(Artifact.job_id.is_not(None))))
        seqs = session.execute(select(Event.job_id, func.count(), func.min(Event.seq), func.max(Event.seq)).group_by(Event.job_id)).all()
        ends = Counter(session.scalars(select(Event.job_id).where(Event.type.in_(TERMINAL))))
        named = set(session.scalars(select(Artifact.key)))
        named |= {f["key"] for row in session.scalars(select(Checkpoint)) for f in row.files.values()}
    known = set(accepted)
    ledger = Ledger(
        faults_injected=faults,
        jobs_accepted=len(known),
        ended=dict(Counter(job.status for job in jobs.values())),
        attempts=sum(job.attempt for job in jobs.values()),
        artifacts=len(files),
        of=names,
    )
    ledger.jobs_lost = len(known - set(jobs))
    ledger.jobs_not_accepted = len(set(jobs) - known)
    ledger.not_ended = sum(job.status not in TERMINAL for job in jobs.values())
    ledger.ended_more_than_once = sum(n > 1 for n in ends.values())
    ledger.gaps_in_events = sum((low, high, n) != (1, jobs[j].version, jobs[j].version) for j, n, low, high in seqs)
    by_name = Counter((file.job_id, file.name) for file in files)
    ledger.published_twice = sum(n > 1 for n in by_name.values())
    ledger.published_by_failures = sum(jobs[file.job_id].status != "succeeded" for file in files if file.job_id in jobs)
    ledger.bytes_wrong = sum(stored(blobs, file.key) != (file.size, file.sha256) for file in files)
    ledger.attempts_too_many = max(0, ledger.attempts - len(jobs) - kills)
    with redis.Redis.from_url(settings.redis_url.get_secret_value()) as client:
        unacked = int(client.hlen("unacked"))  # type: ignore[arg-type]
    ledger.messages_left = waiting(settings) + (0 if kills else unacked)
    ledger.messages_of_the_dead = unacked
    if sweep:
        ledger.orphans = sum(key not in named for key in keys_of(settings))
    return ledger


def stored(blobs: Blobs, key: str) -> tuple[int, str]:
    """(size, sha256) of what the store holds now."""
    content = b"".join(blobs.read(key))
    return len(content), hashlib.sha256(content).hexdigest()


def keys_of(settings: Settings) -> list[str]:
    folder = Path(settings.artifacts_url.removeprefix("file://"))
    return [str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()]


def waiting(settings: Settings) -> int:
    """Messages that no worker took yet."""
    with redis.Redis.from_url(settings.redis_url.get_secret_value()) as client:
        return int(client.llen(QUEUE))  # type: ignore[arg-type]
