"""What every command shares: a client whose errors end the command, and how jobs are followed and printed."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from pydantic import BaseModel, ValidationError
from rich.console import Console

from expunge.client import views
from expunge.client.api import Expunge
from expunge.client.errors import ExpungeError
from expunge.client.types import Job, Validated

out, err = Console(soft_wrap=True), Console(stderr=True, soft_wrap=True)


@contextmanager
def service(url: str | None) -> Iterator[Expunge]:
    """A client; its errors end the command with one message and exit code 2."""
    try:
        with Expunge(url) as client:
            client.transport.notify = lambda line: print_plain(err, line, "dim")
            yield client
    except ExpungeError as error:
        print_plain(err, str(error), "red")
        raise typer.Exit(2) from error
    except ValidationError as error:
        url = client.transport.url
        message = f"{url} does not answer like an Expunge service of this version ({error.title})"
        print_plain(err, f"{message}: set EXPUNGE_URL to one", "red")
        raise typer.Exit(2) from error


def print_plain(console: Console, text: str, style: str | None = None) -> None:
    """Print a text as it is: what looks like markup or a number is not coloured."""
    console.print(text, style=style, markup=False, highlight=False)


def print_json(value: Any) -> None:
    """Print one JSON document on standard output."""

    def plain(item: Any) -> Any:
        return item.model_dump(mode="json") if isinstance(item, BaseModel) else item

    document = [plain(item) for item in value] if isinstance(value, list) else plain(value)
    sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def print_spec(checked: Validated) -> None:
    """Print a checked spec on standard output, the notes about it on standard error."""
    views.show_notes(err, checked.notes)
    print_json(checked.spec)


def finish(client: Expunge, job: Job, *, wait: bool, folder: Path | None, as_json: bool) -> None:
    """Follow, download and print a job; exit code 0 only if it succeeded and its verdict is passed."""
    (job,) = follow_all(client, [job], wait=wait, folder=folder, as_json=as_json)
    if as_json:
        print_json(job)
    else:
        show(client, job)
    if (wait or folder) and not job.ok:
        raise typer.Exit(1)


def finish_all(client: Expunge, jobs: list[Job], *, wait: bool, folder: Path | None, as_json: bool) -> None:
    """The same for several jobs; exit code 0 only if it would be 0 for each of them."""
    jobs = follow_all(client, jobs, wait=wait, folder=folder, as_json=as_json)
    if as_json:
        print_json(jobs)
    else:
        for job in jobs:
            show(client, job)
    if (wait or folder) and not all(job.ok for job in jobs):
        raise typer.Exit(1)


def follow_all(
    client: Expunge, jobs: list[Job], *, wait: bool, folder: Path | None, as_json: bool
) -> list[Job]:
    """The jobs, followed to their ends and downloaded where that is asked for."""
    if wait or folder:
        for job in [] if as_json else jobs:
            err.print(f"job {job.id}", highlight=False)
            views.show_notes(err, job.notes)
        jobs = [follow(client, job, quiet=as_json) for job in jobs]
    if folder:
        for job in jobs:
            if job.status == "succeeded":
                client.download(job, folder if len(jobs) == 1 else folder / job.id)
    return jobs


def follow(client: Expunge, job: Job, quiet: bool) -> Job:
    """The ended job; meanwhile a live bar on standard error, or lines where that is not a terminal.

    Ctrl-C leaves the job running.
    """
    try:
        if quiet:
            return client.wait(job)
        with views.Live(err, job) if err.is_terminal else views.Lines(err) as notify:
            return client.wait(job, notify)
    except KeyboardInterrupt:
        err.print(
            f"the job goes on: 'expunge wait {job.id}' follows it again, 'expunge cancel {job.id}' stops it",
            highlight=False,
        )
        raise typer.Exit(130) from None


def show(client: Expunge, job: Job) -> None:
    """Print a job; of an inspection, its ranking too."""
    views.show_job(out, job)
    if job.kind == "inspect" and job.ok:
        out.print(views.ranking_table(client.report(job)))
