"""The whole service under load, beside bare FastAPI, bare Celery and nginx on the same machine: `make load`.

Every bar is a ratio of two things that were measured one after the other, in several rounds; the exit code
says whether all were held.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
import uuid
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import func, select, text

from benchmarks.under_load import bare, depth
from benchmarks.under_load.figures import Bar, latencies, side_by_side
from benchmarks.under_load.service import Loaded, answers, loaded, until
from expunge.embedded.servers import find_free_port
from expunge.store import artifacts, db
from expunge.store.models import Artifact, Job
from expunge.store.statuses import JobStatus
from tests.support import ledger

RESULTS = Path(__file__).parent / "results" / "load.json"
CONNECTIONS = 16
LARGE = 128 * 1024  # KiB
FEW = 100  # jobs that the event streams are spread over
WORKER = (
    "celery",
    "-A",
    "benchmarks.under_load.bare:celery",
    "worker",
    "-c",
    "1",
    "--without-gossip",
    "--without-mingle",
    "-l",
    "WARNING",
)
Report = dict[str, Any]


def say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def seen(process: "subprocess.Popen[str]") -> Any:
    """What a client saw; an error when it did not come to its end."""
    out, _ = process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"a client ended with code {process.returncode}")
    return json.loads(out.splitlines()[-1])


class Load:
    """The parts of the measurement, in turn on one running service."""

    def __init__(self, service: Loaded, rounds: int) -> None:
        self.service, self.rounds = service, rounds
        self.accepted: list[uuid.UUID] = []
        self.bars: list[Bar] = []
        self.report: Report = {}

    def post(self, times: int, *, kib: int = 1, wait: bool = True) -> list[uuid.UUID]:
        """Jobs that a client posted, one after the other."""
        more = ["--wait"] if wait else []
        found = seen(
            self.service.client(
                "post", "--url", self.service.url, "--times", str(times), "--kib", str(kib), *more
            )
        )
        made = [uuid.UUID(id_) for id_ in found["accepted"]]
        self.accepted += made
        return made

    def artifact(self, job_id: uuid.UUID) -> Artifact:
        with db.transaction(self.service.settings.database_url.get_secret_value()) as session:
            tenant = session.scalars(select(Job.tenant_id).where(Job.id == job_id)).one()
            return artifacts.list_of_job(session, tenant, job_id)[0]

    def rows(self, ids: list[uuid.UUID]) -> list[Job]:
        with db.transaction(self.service.settings.database_url.get_secret_value()) as session:
            return list(session.scalars(select(Job).where(Job.id.in_(ids))))

    def unfinished(self) -> int:
        with db.transaction(self.service.settings.database_url.get_secret_value()) as session:
            return (
                session.scalar(
                    select(func.count()).select_from(Job).where(Job.status.in_(JobStatus.active()))
                )
                or 0
            )

    # The parts

    def reading(self) -> None:
        """GET /jobs/{id} of a finished job against the bare route."""
        service, (job_id,) = self.service, self.post(1)
        port = find_free_port()
        plain = f"http://127.0.0.1:{port}"
        uvicorn = (
            "uvicorn",
            "benchmarks.under_load.bare:create_app",
            "--factory",
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
            "--no-access-log",
        )
        service.start("bare-api", sys.executable, "-m", *uvicorn, ready=lambda: answers(plain))
        rates: dict[str, list[float]] = {"api": [], "bare-api": []}
        costs: dict[str, list[float]] = {"api": [], "bare-api": []}
        for n in range(-1, self.rounds):
            for name, url in order(n, ("api", service.url), ("bare-api", plain)):
                process = service.process(name)
                before = sum(process.cpu_times()[:2])
                found = seen(
                    service.client(
                        "hammer",
                        "--url",
                        f"{url}/jobs/{job_id}",
                        "--connections",
                        str(CONNECTIONS),
                        "--seconds",
                        "1" if n < 0 else "3",
                    )
                )
                if n >= 0:
                    rates[name].append(found["requests"] / found["seconds"])
                    costs[name].append((sum(process.cpu_times()[:2]) - before) / found["requests"])
        service.stop("bare-api")
        self.bars.append(
            side_by_side(
                "GET /jobs/{id}, requests a second to a bare route's",
                rates["api"],
                rates["bare-api"],
                least=0.7,
            )
        )
        self.report["reading"] = {
            "connections": CONNECTIONS,
            "requests_a_second": middle(rates),
            "processor_ms_a_request": {
                name: round(1000 * statistics.median(c), 3) for name, c in costs.items()
            },
        }

    def starting(self) -> None:
        """From a job's acceptance to a worker's claim, against a bare Celery task on the same Redis."""
        service, times = self.service, 15
        service.start("bare-worker", sys.executable, "-m", *WORKER)
        seen(service.client("celery", "--times", "3"))
        found: dict[str, list[float]] = defaultdict(list)
        for n in range(self.rounds):
            for what in order(n, "post", "celery"):
                took = (
                    self.waits(self.post(times))
                    if what == "post"
                    else seen(service.client("celery", "--times", str(times)))
                )
                for name, values in took.items():
                    found[name].append(statistics.median(values))
        service.stop("bare-worker")
        self.bars.append(
            side_by_side(
                "accepted to claimed, to a bare Celery round trip",
                found["accepted_to_claimed"],
                found["round_trip"],
                most=1.5,
            )
        )
        self.report["starting"] = {
            "jobs": times * self.rounds,
            "median_ms": {name: round(1000 * statistics.median(values), 2) for name, values in found.items()},
        }

    def waits(self, ids: list[uuid.UUID]) -> dict[str, list[float]]:
        """Seconds until jobs were claimed, by the database's clock: from the commit that accepted each, from
        that transaction's begin, and to the claim's commit.
        """
        commits = text(
            "select pg_xact_commit_timestamp(a.xmin), pg_xact_commit_timestamp(b.xmin), jobs.created_at,"
            " started_at from jobs join events a on a.job_id = id and a.seq = 1 join events b on b.job_id ="
            " id and b.seq = 2 where id = any(:ids)"
        )
        with db.transaction(self.service.settings.database_url.get_secret_value()) as session:
            rows = session.execute(commits, {"ids": ids}).all()
        return {
            "accepted_to_claimed": [(started - accepted).total_seconds() for accepted, _, _, started in rows],
            "begun_to_claimed": [(started - begun).total_seconds() for _, _, begun, started in rows],
            "accepted_to_claim_committed": [
                (claimed - accepted).total_seconds() for accepted, claimed, _, _ in rows
            ],
        }

    def downloading(self) -> None:
        """A large artifact against nginx's sendfile of the same file."""
        name = "download, bytes a second to nginx's sendfile"
        service, (job_id,) = self.service, self.post(1, kib=LARGE)
        row, program = self.artifact(job_id), bare.nginx()
        if program is None:
            self.bars.append(Bar(name, None, least=0.8, why="nginx is not installed (apt-get install nginx)"))
            return
        port, folder = find_free_port(), service.folder / "nginx"
        folder.mkdir()
        config = bare.nginx_config(folder, service.folder / "artifacts", port)
        urls = {
            "api": f"{service.url}/artifacts/{row.id}/content",
            "nginx": f"http://127.0.0.1:{port}/{row.key}",
        }
        service.start(
            "nginx",
            program,
            "-c",
            str(config),
            "-p",
            str(folder),
            "-e",
            f"{folder}/nginx.log",
            ready=lambda: answers(urls["nginx"]),
        )
        first = seen(service.client("download", "--url", urls["api"]))
        rates: dict[str, list[float]] = {"api": [], "nginx": []}
        for n in range(-1, self.rounds):
            for side in order(n, *urls):
                found = seen(service.client("download", "--url", urls[side], "--times", "3"))
                if n >= 0:
                    rates[side].append(found["bytes"] / found["seconds"] / 1e6)
        service.stop("nginx")
        self.bars.append(side_by_side(name, rates["api"], rates["nginx"], least=0.8))
        self.report["downloading"] = {
            "mebibytes": LARGE // 1024,
            "megabytes_a_second": (
                middle(rates) | {"api_first_time": round(first["bytes"] / first["seconds"] / 1e6)}
            ),
        }

    def mixing(self, seconds: float) -> None:
        """POST, GET, event streams and downloads at once; afterwards the ledger of everything that was
        accepted so far.
        """
        service = self.service
        found = seen(service.client("mixed", "--url", service.url, "--seconds", str(seconds)))
        self.accepted += [uuid.UUID(id_) for id_ in found["accepted"]]
        statuses = {int(k): v for k, v in found["statuses"].items()}
        book = self.ledger()
        self.bars.append(
            Bar("mixed traffic, answers of 5xx", sum(v for k, v in statuses.items() if k >= 500), most=0)
        )
        self.bars.append(Bar("mixed traffic, wrong answers, gaps and bytes", len(found["wrong"]), most=0))
        self.report["mixing"] = {
            "seconds": round(found["took"], 1),
            "requests": sum(statuses.values()),
            "statuses": statuses,
            "jobs": len(found["accepted"]),
            "wrong": found["wrong"][:20],
            "latency": {kind: latencies(values) for kind, values in found["seconds"].items()},
            "ledger": {"ended": book.ended, "attempts": book.attempts, "artifacts": book.artifacts},
        }

    def ledger(self) -> ledger.Ledger:
        """At quiet; a bar that nothing is wrong in it."""
        settings = self.service.settings
        until(lambda: self.unfinished() == 0, 300)
        until(lambda: ledger.read(settings, self.accepted, faults=0, kills=0, names=[]).messages_left == 0)
        book = ledger.read(settings, self.accepted, faults=0, kills=0, names=[])
        self.bars.append(
            Bar(
                f"ledger of {book.jobs_accepted} jobs, entries that are wrong",
                sum(book.wrong.values()),
                most=0,
            )
        )
        return book

    def streaming(self, clients: int) -> None:
        """So many event streams on the one API process, opened before their jobs run."""
        service = self.service
        api = service.process("api")
        service.hold.touch()
        ids = self.post(min(FEW, clients), wait=False)
        memory = {"before": api.memory_info().rss}
        begun = time.monotonic()
        process = service.client(
            "watch", "--url", service.url, "--clients", str(clients), "--jobs", *map(str, ids)
        )
        if not process.stdout or process.stdout.readline() != "open\n":
            raise RuntimeError("not every stream could be opened")
        opened = time.monotonic() - begun
        memory["open"] = api.memory_info().rss
        service.hold.unlink()
        peak = memory["open"]
        while process.poll() is None and self.unfinished():
            peak = max(peak, api.memory_info().rss)
            time.sleep(0.1)
        found = seen(process)["events_by_job"]
        memory |= {"peak": max(peak, api.memory_info().rss)}
        time.sleep(1)
        memory["after"] = api.memory_info().rss
        want = {str(row.id): row.version for row in self.rows(ids)}
        whole = sum(n == want[id_] for id_, counts in found.items() for n in counts)
        self.bars.append(Bar(f"event streams of {clients} that missed something", clients - whole, most=0))
        self.report["streaming"] = {
            "clients": clients,
            "jobs": len(ids),
            "events": sum(n for counts in found.values() for n in counts),
            "seconds_to_open": round(opened, 1),
            "api_rss_mib": {k: v >> 20 for k, v in memory.items()},
        }

    def queueing(self) -> None:
        """Acts on queues of 100, 1,000 and 10,000 jobs."""
        self.service.stop("worker-1", "loops")
        found = depth.measure(self.service.settings.database_url.get_secret_value(), self.rounds, 15)
        low, _, high = depth.DEPTHS
        for act, by_depth in found.items():
            if act in depth.BARRED:
                self.bars.append(
                    side_by_side(
                        f"{act.replace('_', ' ')}, {high:,} queued jobs to {low}",
                        by_depth[high],
                        by_depth[low],
                        most=2,
                    )
                )
        self.report["queueing"] = {
            act: {str(n): round(1000 * statistics.median(values), 3) for n, values in by_depth.items()}
            for act, by_depth in found.items()
        }


def order(n: int, *sides: Any) -> tuple[Any, ...]:
    """Who comes first changes from round to round."""
    return sides if n % 2 == 0 else sides[::-1]


def middle(rates: dict[str, list[float]]) -> dict[str, int]:
    return {name: round(statistics.median(values)) for name, values in rates.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=30, help="of mixed traffic")
    parser.add_argument("--clients", type=int, default=1000, help="event streams at once")
    parser.add_argument(
        "--only", nargs="*", help="parts: reading starting downloading mixing streaming queueing"
    )
    parser.add_argument("--dry", action="store_true", help="leave the results file as it is")
    args = parser.parse_args()
    begun = time.monotonic()
    with loaded() as service:
        load = Load(service, args.rounds)
        parts: dict[str, Callable[[], None]] = {
            "reading": load.reading,
            "starting": load.starting,
            "downloading": load.downloading,
            "mixing": lambda: load.mixing(args.seconds),
            "streaming": lambda: load.streaming(args.clients),
            "queueing": load.queueing,
        }
        for name, part in parts.items():
            if not args.only or name in args.only:
                had = len(load.bars)
                part()
                say(f"-- {name} ({time.monotonic() - begun:.0f} s): {json.dumps(load.report.get(name))}")
                new = load.bars[had:]
                for bar in new:
                    print(bar.told(), flush=True)
                if not args.dry:
                    keep(
                        name,
                        {
                            "rounds": args.rounds,
                            "cores": os.cpu_count(),
                            **load.report.get(name, {}),
                            "bars": [bar.row() for bar in new],
                        },
                    )
    missed = [bar for bar in load.bars if bar.missed]
    print(
        f"{len(missed)} of {len(load.bars)} bars missed" if missed else f"all {len(load.bars)} bars held",
        flush=True,
    )
    return 1 if missed else 0


def keep(part: str, found: Report) -> None:
    """A part's figures in the results, in place of those of the run before."""
    known: Report = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    RESULTS.write_text(json.dumps(known | {part: found}, indent=1) + "\n")


if __name__ == "__main__":
    raise SystemExit(main())
