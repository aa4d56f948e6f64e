"""How jobs, tables and progress look in a terminal."""

from collections.abc import Iterable, Mapping
from time import monotonic
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from expunge.client.types import Artifact, Comparison, Event, Impact, Job, KeyRead, Model, Queue

COLOURS = {
    "succeeded": "green",
    "failed": "red",
    "expired": "red",
    "cancelled": "yellow",
    "cancelling": "yellow",
    "running": "cyan",
    "queued": "blue",
}
OUTCOMES = {"passed": "[green]passed[/]", "failed": "[red]failed[/]", "not shown": "[yellow]not shown[/]"}


def status_text(job: Job) -> str:
    """The job's status in its colour, and its verdict."""
    verdict = f", verdict: {job.outcome}" if job.outcome else ""
    return f"[{COLOURS.get(job.status, 'white')}]{job.status}[/]{verdict}"


def concept_text(concept: Any) -> str:
    """A concept, and what it becomes."""
    if not isinstance(concept, Mapping):
        return str(concept)
    targets = [concept["target"]] if concept.get("target") else concept.get("attributes") or []
    arrow = f" → {' or '.join(map(str, targets))}" if targets else ""
    return str(concept.get("name", "?")) + arrow


def concepts_text(job: Job, longest: int = 60) -> str:
    """The job's first three concepts, each cut to `longest` characters."""
    concepts = job.spec.get("concepts", [])
    texts = []
    for concept in concepts[:3]:
        text = concept_text(concept)
        texts.append(text if len(text) <= longest else f"{text[: longest - 1]}…")
    more = f" and {len(concepts) - 3} more" if len(concepts) > 3 else ""
    return escape(", ".join(texts) + more)


def method_name(job: Job) -> str:
    method = job.spec.get("method")
    return str(method.get("name", "")) if isinstance(method, Mapping) else str(method or "")


def jobs_table(jobs: Iterable[Job]) -> Table:
    """Jobs, one a row; ids are never cut and the rest folds, so that it fits into 80 columns."""
    table = Table(
        Column("id", no_wrap=True),
        Column("job", overflow="fold", min_width=18),
        Column("status", overflow="fold"),
        Column("created", overflow="fold"),
        box=None,
        header_style="bold",
    )
    for job in jobs:
        method = f" by {method_name(job)}" if method_name(job) else ""
        created = f"{job.created_at:%Y-%m-%d %H:%M}"
        table.add_row(job.id, f"{job.kind} {concepts_text(job)}{method}", status_text(job), created)
    return table


def uploads_table(uploads: Iterable[Artifact]) -> Table:
    table = Table(
        Column("id", no_wrap=True),
        Column("name", overflow="fold"),
        "type",
        "bytes",
        "stored",
        box=None,
        header_style="bold",
    )
    for each in uploads:
        made = f"{each.created_at:%Y-%m-%d %H:%M}" if each.created_at else ""
        table.add_row(each.id, escape(each.name), each.media_type, f"{each.size:,}", made)
    return table


def models_table(models: Iterable[Model]) -> Table:
    table = Table("id", "title", "kind", "concepts", "styles", box=None, header_style="bold")
    for model in models:
        known: Mapping[str, Any] = model.vocabulary or {}
        table.add_row(
            model.id,
            escape(model.title),
            model.kind,
            str(known.get("concepts", "")),
            escape(", ".join(known.get("styles", []))),
        )
    return table


def show_queue(console: Console, queue: Queue) -> None:
    """Print state, pauses, jobs by status and quotas."""
    console.print(queue.state, style="yellow" if queue.state == "paused" else "green")
    for whose, pause in (("yours", queue.pause), ("the operator's", queue.maintenance)):
        if pause is not None:
            handing = ", running jobs are handed over" if pause.hand_over else ""
            reason = f": {pause.reason}" if pause.reason else ""
            console.print(
                f"paused ({whose}) since {pause.paused_at:%Y-%m-%d %H:%M:%S} UTC{handing}{reason}",
                markup=False,
                highlight=False,
            )
    counts = ", ".join(f"{n} {name}" for name, n in queue.jobs.items())
    console.print(f"jobs: {counts}; {queue.jobs_today} created today", highlight=False)
    quotas = ", ".join(f"{name} {'unlimited' if n is None else n}" for name, n in queue.quotas.items())
    console.print(f"quotas: {quotas}", highlight=False)


def reads_table(reads: Iterable[KeyRead]) -> Table:
    table = Table("when", "API key", "address", "bytes", "request", box=None, header_style="bold")
    for read in reads:
        span = f"{read.start}–{read.stop}"
        table.add_row(
            f"{read.read_at:%Y-%m-%d %H:%M:%S}",
            escape(read.api_key.get("name", "")),
            read.address or "",
            span,
            read.request_id,
        )
    return table


def outcome_of(check: Mapping[str, Any]) -> str:
    """A check's result in a word; services of before say it by `passed` alone."""
    words: dict[Any, str] = {True: "passed", False: "failed"}
    said = check.get("status") or words.get(check.get("passed"), "not shown")
    return str(said) if said in OUTCOMES else "not shown"


def verdict_table(verdict: Mapping[str, Any]) -> Table:
    """The checks of a verdict, one a row."""
    table = Table("metric", "value", "interval", "needed", "", box=None, header_style="bold")
    for check in verdict.get("checks", []):
        value, needed = check.get("value"), check.get("threshold")
        low, high = check.get("ci_low"), check.get("ci_high")
        table.add_row(
            escape(" ".join(str(check[key]) for key in ("metric", "attack", "concept") if check.get(key))),
            f"{value:.3f}" if isinstance(value, float) else str(value),
            "" if low is None or high is None else f"{low:.3f} – {high:.3f}",
            ("≤ " if check.get("bound") == "at most" else "")
            + (f"{needed:.3f}" if isinstance(needed, float) else str(needed)),
            OUTCOMES[outcome_of(check)],
        )
    return table


def impact_tables(impact: Impact) -> list[Table]:
    """The concepts that would be hurt, and the best targets where there are some."""
    hurt = Table(
        "would be hurt", "CLIP drop", "80 %", "PSR-1 drop", "by", "distance", box=None, header_style="bold"
    )
    for row in impact.hurt:
        clip, psr = row["clip"], row["psr"]
        hurt.add_row(
            escape(row["concept"]),
            f"{clip['value']:.1f}",
            f"{clip['low']:.0f} to {clip['high']:.0f}",
            f"{psr['value']:.0%}",
            escape(row["erased"]),
            f"{row['distance']:.1f}",
        )
    targets = Table("concept", "best targets", "why", box=None, header_style="bold")
    for found in impact.targets:
        for target in found["targets"]:
            targets.add_row(escape(found["concept"]), escape(target["target"]), escape(target["reason"]))
    return [hurt, targets] if impact.targets else [hurt]


UNITS = {"wall_": ("{:,.1f} s", 1.0), "peak_": ("{:.2f} GB", 1e-9), "clip": ("{:.2f}", 1.0)}
UNITS |= {"lpips": ("{:.2f}", 1.0), "leak": ("{:.3f} nats", 1.0), "storage_": ("{:.2f} MB", 1e-6)}
UNITS |= {"kid": ("{:.4f}", 1.0), "fid": ("{:.1f}", 1.0), "diversity": ("{:.3f}", 1.0)}
UNITS |= {"detections": ("{:.2f}", 1.0)}
MARKS = {"better": "[green]▲ better[/]", "worse": "[red]▼ worse[/]", "between": "[yellow]◆ between[/]"}


def figure_text(metric: str, value: float) -> str:
    """A figure with its unit; what has no unit of its own is a share, in percent."""
    unit, factor = next((u for begin, u in UNITS.items() if metric.startswith(begin)), ("{:.1f} %", 100.0))
    return unit.format(value * factor)


def compared_jobs_table(comparison: Comparison) -> Table:
    """Which job each letter stands for."""
    table = Table("", Column("id", no_wrap=True), "kind", "method", "verdict", box=None, header_style="bold")
    for job in comparison.jobs:
        about = [str(job.get(key) or "") for key in ("name", "id", "kind", "method", "verdict")]
        table.add_row(*map(escape, about))
    return table


def comparison_table(comparison: Comparison, *, whole: bool) -> Table:
    """The figures, a column for each job; those of single preserved concepts where `whole`."""
    letters = [job["name"] for job in comparison.jobs]
    columns = [Column(letter, no_wrap=True) for letter in letters]
    table = Table("concept", "metric", *columns, "shown", box=None, header_style="bold")
    for row in comparison.metrics:
        if row["role"] == "preserved" and not whole:
            continue
        cells = {
            each["job"]: f"{figure_text(row['metric'], each['value'])} {MARKS.get(each['mark'], '')}".strip()
            for each in row["values"]
        }
        attack = f", {row['attack']}" if row["attack"] else ""
        about = escape(row["concept"] or "all together"), escape(row["title"] + attack)
        table.add_row(*about, *(cells.get(letter, "") for letter in letters), escape(row["conclusion"]))
    return table


def ranking_table(report: Mapping[str, Any]) -> Table:
    """An inspection's concepts, those that moved most first."""
    found = " (found)" if report["found"] else ""
    table = Table(
        f"moved beside {escape(report['changed'])}{found}",
        "moved",
        "times the mean",
        "score",
        box=None,
        header_style="bold",
    )
    for row in report["ranking"][:10]:
        table.add_row(
            escape(row["concept"]),
            f"{row['moved']:.4f}",
            f"{row['moved'] / report['mean_moved']:.1f}",
            f"{row['score']:.3f}",
        )
    return table


def show_notes(console: Console, notes: Iterable[str]) -> None:
    for note in notes:
        console.print(f"note: {note}", style="yellow", markup=False, highlight=False)


def progress_text(progress: Mapping[str, Any]) -> str:
    """Where a job is: phase and step, target, loss, and the seconds left."""
    facts = [str(progress[key]) for key in ("phase", "target", "message", "status") if progress.get(key)]
    if facts and progress.get("total") and progress.get("phase"):
        facts[0] += f" {progress.get('step') or 0}/{progress['total']}"
    if isinstance(progress.get("loss"), float):
        facts.append(f"loss {progress['loss']:.4f}")
    if isinstance(progress.get("eta_s"), (int, float)):
        facts.append(f"{progress['eta_s']:.0f} s left")
    return "  ".join(facts)


def method_parameters(job: Job) -> str:
    """The method's parameters, but for its name, nulls, lists and objects."""
    method = job.spec.get("method")
    if not isinstance(method, Mapping):
        return ""
    plain = {k: v for k, v in method.items() if v is not None and not isinstance(v, (Mapping, list))}
    return ", ".join(f"{name} {value}" for name, value in plain.items() if name != "name")


def show_job(console: Console, job: Job) -> None:
    """Print all that is known of a job."""
    console.print(f"[bold]{job.id}[/]  {job.kind} {method_name(job)}  {status_text(job)}")
    if job.spec.get("concepts"):
        console.print(f"concepts  {concepts_text(job, 200)}")
    if parameters := method_parameters(job):
        console.print(f"method    {escape(parameters)}", style="dim", highlight=False)
    times = [("created", job.created_at), ("started", job.started_at), ("ended", job.finished_at)]
    attempt = f"  attempt {job.attempt}" if job.attempt > 1 else ""
    console.print(
        "  ".join(f"{what} {at:%Y-%m-%d %H:%M:%S}" for what, at in times if at) + " UTC" + attempt,
        style="dim",
        highlight=False,
    )
    if job.progress and not job.finished:
        console.print(f"at        {escape(progress_text(job.progress))}", highlight=False)
    show_notes(console, job.notes)
    if job.error:
        console.print(f"[red]{escape(job.error.code)}[/]: {escape(job.error.message)}")
    if job.verdict and job.verdict.get("checks"):
        console.print(verdict_table(job.verdict))
        for line in job.verdict.get("advice") or []:
            console.print(f"advice: {line}", style="yellow", markup=False, highlight=False)
    if job.latest_verdict:
        show_latest_verdict(console, job.latest_verdict)
    for artifact in job.artifacts:
        console.print(
            f"  {escape(artifact.name)}  {artifact.size:,} bytes  sha256 {artifact.sha256[:16]}… "
            f" [dim]{artifact.id}[/]{' [yellow]withheld[/]' if artifact.withheld else ''}"
        )


def show_latest_verdict(console: Console, verdict: Mapping[str, Any]) -> None:
    """Print what the red team has found since the verdict above was signed."""
    broken = [f"{each['attack']} on '{each['concept']}'" for each in verdict["attacks"] if is_counted(each)]
    why = f": {', '.join(broken)}" if broken else ""
    console.print(
        f"attacked again on {str(verdict['at'])[:10]} by job {verdict['job_id']}: {verdict['status']}{why}",
        style="red" if verdict["status"] == "failed" else "",
        markup=False,
        highlight=False,
    )


def is_counted(attack: Mapping[str, Any]) -> bool:
    """Whether an attack broke the verdict: some are reported and decide nothing."""
    return bool(attack["status"] == "broken" and attack["decides"])


class Lines:
    """Prints a line for each phase of a job, and one every `pause` seconds: for logs."""

    def __init__(self, console: Console, pause: float = 15.0) -> None:
        self.console, self.pause = console, pause
        self.phase, self.last = "", -pause

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, *_: object) -> None: ...

    def __call__(self, event: Event) -> None:
        data = event.data.get("progress", event.data)
        if not isinstance(data, Mapping) or not (text := progress_text(data)):
            return
        phase, now = str(data.get("phase") or data.get("status")), monotonic()
        if phase != self.phase or now - self.last >= self.pause:
            self.phase, self.last = phase, now
            self.console.print(text, markup=False, highlight=False, soft_wrap=True)


class Live:
    """A progress bar fed by a job's events."""

    def __init__(self, console: Console, job: Job) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[facts]}"),
            TimeElapsedColumn(),
        )
        self.bar = Progress(*columns, console=console, transient=True)
        self.task = self.bar.add_task(f"{job.kind} {concepts_text(job)}", total=None, facts=job.status)

    def __enter__(self) -> "Live":
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def __call__(self, event: Event) -> None:
        data = event.data.get("progress", event.data)
        if not isinstance(data, Mapping):
            return
        self.bar.update(
            self.task,
            total=data.get("total"),
            completed=data.get("step") or 0,
            facts=escape(progress_text(data)),
        )
