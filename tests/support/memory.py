"""Memory of a service's processes over a soak: sampled, judged, drawn."""

import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from sqlalchemy import func, select

from expunge.store import db
from expunge.store.models import Job
from expunge.store.statuses import JobStatus

EVERY = 1.0  # seconds between samples
# A process leaks that keeps more than this of every job: 40 KiB, a small part of what a job's delta or its
# events take. One step of the allocator, some MiB once, stays below over a soak's hundreds of jobs; ten
# thousand jobs of such a leak would be 400 MiB.
MOST = 4.0  # MiB a hundred jobs
# A pool child holds torch, a model and a run's tensors, in and out with every phase, and is replaced after 16
# jobs (EXPUNGE_TASKS_PER_PROCESS): what it may gain in that life is an eighth of its gibibyte.
CHILD, MOST_OF_CHILD = "pool child", 800.0
ENOUGH = 40  # jobs in the second half: over fewer, one step of the allocator looks like a leak
WARM = 2  # jobs of a pool child while which it still loads and caches


@dataclass
class Watch:
    """Samples of every process that `roles` names, and of how many jobs were accepted and finished by
    then.
    """

    url: str
    roles: Callable[[], dict[str, list[psutil.Process]]]
    accepted: Callable[[], int]
    begun: float = field(default_factory=time.monotonic)
    samples: list[dict[str, Any]] = field(default_factory=list)  # t in seconds, role, pid, rss in MiB, jobs
    counts: list[tuple[float, int, int]] = field(default_factory=list)  # t, accepted, finished
    faults: list[tuple[float, str]] = field(default_factory=list)
    ran: dict[int, set[Any]] = field(default_factory=dict)  # pid of a pool child to the jobs it was seen at

    def now(self) -> float:
        return round(time.monotonic() - self.begun, 1)

    def run(self, over: threading.Event) -> None:
        self.begun = time.monotonic()
        while not over.wait(EVERY):
            self.sample()
        self.sample()

    def sample(self) -> None:
        with suppress(Exception):  # the database may be away
            self.count()
        finished = self.counts[-1][2] if self.counts else 0
        for role, processes in self.roles().items():
            for process in processes:
                with suppress(psutil.NoSuchProcess):
                    rss = round(process.memory_info().rss / 2**20, 2)
                    if rss == 0:  # it is ending
                        continue
                    jobs = len(self.ran.get(process.pid, ())) if role == CHILD else finished
                    self.samples.append(
                        {"t": self.now(), "role": role, "pid": process.pid, "rss": rss, "jobs": jobs}
                    )

    def count(self) -> None:
        with db.transaction(self.url) as session:
            finished = (
                session.scalar(
                    select(func.count()).select_from(Job).where(Job.status.in_(JobStatus.terminal()))
                )
                or 0
            )
            for job_id, owner in session.execute(
                select(Job.id, Job.lease_owner).where(Job.lease_owner.is_not(None))
            ):
                self.ran.setdefault(int(owner.rpartition(":")[2]), set()).add(job_id)
        self.counts.append((self.now(), self.accepted(), finished))

    def slopes(self) -> dict[str, float | None]:
        """MiB that a role's memory grows by in a hundred jobs, by least squares; None when there were too few
        jobs to say.

        Over the second half, for what lives through the soak. A pool child does not: all of them together,
        each less its own mean, from their third job on.
        """
        half = self.samples[-1]["t"] / 2 if self.samples else 0.0
        found: dict[str, float | None] = {}
        for role in dict.fromkeys(sample["role"] for sample in self.samples):
            mine = [
                s
                for s in self.samples
                if s["role"] == role and (s["jobs"] > WARM if role == CHILD else s["t"] >= half)
            ]
            found[role] = slope(mine)
        return found


def slope(samples: Iterable[dict[str, Any]]) -> float | None:
    """MiB a hundred jobs, each process around its own mean."""
    lives: dict[int, list[tuple[float, float]]] = {}
    for sample in samples:
        lives.setdefault(sample["pid"], []).append((sample["jobs"] / 100, sample["rss"]))
    if not lives or sum(np.ptp([x for x, _ in life]) for life in lives.values()) * 100 < ENOUGH:
        return None
    x, y = np.concatenate([np.array(life) - np.mean(life, axis=0) for life in lives.values()]).T
    return round(float(x @ y / (x @ x)), 2)


def most(role: str) -> float:
    """MiB a hundred jobs that still count as flat."""
    return MOST_OF_CHILD if role == CHILD else MOST


def grown(slopes: dict[str, float | None]) -> list[str]:
    """Roles whose memory is not flat."""
    return [role for role, value in slopes.items() if value is not None and value > most(role)]


def draw(watch: Watch, path: Path) -> None:
    """Memory over time, every fault as a tick, jobs accepted and finished."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    figure = Figure(figsize=(11, 9), layout="constrained")
    memory, faults, jobs = figure.subplots(3, 1, sharex=True, height_ratios=[3, 2, 1.6])
    slopes = watch.slopes()
    for n, role in enumerate(slopes):
        mine = [s for s in watch.samples if s["role"] == role]
        value = slopes[role]
        label = f"{role}: " + (
            f"{value:+.1f} MiB a hundred jobs" if value is not None else "too few jobs to say how it grows"
        )
        for pid in dict.fromkeys(s["pid"] for s in mine):
            life = [s for s in mine if s["pid"] == pid]
            memory.plot(
                [s["t"] / 60 for s in life], [s["rss"] for s in life], color=f"C{n}", lw=1.3, label=label
            )
            label = "_"
    memory.set(ylabel="resident memory, MiB", yscale="log")
    memory.yaxis.set_major_formatter("{x:.0f}")
    memory.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
    memory.yaxis.set_minor_formatter("{x:.0f}")
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    names = sorted({name for _, name in watch.faults})
    faults.eventplot(
        [[t / 60 for t, name in watch.faults if name == each] for each in names] or [[]],
        colors="C3",
        linelengths=0.7,
    )
    faults.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
    times = [t / 60 for t, _, _ in watch.counts]
    for label, values in (
        ("accepted", [a for _, a, _ in watch.counts]),
        ("finished", [f for _, _, f in watch.counts]),
    ):
        jobs.step(times, values, where="post", label=label)
    jobs.set(xlabel="minutes", ylabel="jobs")
    jobs.legend(frameon=False)
    for axes in (memory, faults, jobs):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
