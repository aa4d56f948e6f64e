"""`expunge wait`, `jobs`, `show`, `cancel`, `retry`, `download`, `queue`, `models` and `delete`."""

from pathlib import Path
from typing import Annotated

import typer

from expunge.client import views
from expunge.client.options import Folder, IntoFolder, JobId, JobIds, Json, Labels, Url, Wait, labels_of
from expunge.client.terminal import (
    err,
    finish,
    finish_all,
    out,
    print_json,
    print_plain,
    service,
)


def wait(ids: JobIds, download: Folder = None, url: Url = None, as_json: Json = False) -> None:
    """Follow jobs to their end; exit code 0 only if all succeeded and every verdict is passed."""
    with service(url) as client:
        jobs = [client.job(id_) for id_ in ids]
        finish_all(client, jobs, wait=True, folder=download, as_json=as_json)


def list_jobs(
    kind: Annotated[str | None, typer.Option(help="erase, hide, combine, evaluate or inspect.")] = None,
    status: Annotated[
        str | None, typer.Option(help="queued, running, cancelling, succeeded, failed, cancelled or expired.")
    ] = None,
    label: Labels = None,
    limit: Annotated[int, typer.Option(min=1, max=200, help="How many jobs to list.")] = 20,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """List jobs, newest first."""
    with service(url) as client:
        jobs = client.jobs_page(kind=kind, status=status, labels=labels_of(label), limit=limit).items
    if as_json:
        print_json(jobs)
    else:
        out.print(views.jobs_table(jobs))


def show(id_: JobId, url: Url = None, as_json: Json = False) -> None:
    """Show one job."""
    with service(url) as client:
        job = client.job(id_)
    if as_json:
        print_json(job)
    else:
        views.show_job(out, job)


def cancel(ids: JobIds, url: Url = None, as_json: Json = False) -> None:
    """Cancel jobs; a running one stops at its next step."""
    with service(url) as client:
        jobs = [client.cancel(id_) for id_ in ids]
        finish_all(client, jobs, wait=False, folder=None, as_json=as_json)


def retry(
    id_: JobId, wait: Wait = True, download: Folder = None, url: Url = None, as_json: Json = False
) -> None:
    """Run a failed, cancelled or expired job again, as a new job."""
    with service(url) as client:
        finish(client, client.retry(id_), wait=wait, folder=download, as_json=as_json)


def download(id_: JobId, folder: IntoFolder = Path("."), url: Url = None, as_json: Json = False) -> None:
    """Download a job's artifacts; resumes an earlier download, and verifies every sha256."""
    with service(url) as client:
        paths = client.download(id_, folder)
        withheld = [artifact.name for artifact in client.artifacts(id_) if artifact.withheld]
        if withheld:
            message = f"withheld, as the verdict is not 'passed': {', '.join(withheld)}"
            err.print(message, style="yellow", markup=False, highlight=False)
        if not paths:
            job = client.job(id_)
            message = f"job {job.id} is {job.status}: there is nothing to download"
            err.print(message, style="red", highlight=False)
    if as_json:
        print_json([str(path) for path in paths])
    else:
        for path in paths:
            print_plain(out, str(path))
    if not paths:
        raise typer.Exit(1)


def queue(
    action: Annotated[
        str, typer.Argument(help="show, pause or resume; the last two need the scope admin.")
    ] = "show",
    hand_over: Annotated[
        bool,
        typer.Option(
            "--hand-over", help="pause: also stop running jobs at their next checkpoint, to be resumed."
        ),
    ] = False,
    reason: Annotated[str, typer.Option(help="pause: why, for people to read.")] = "",
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Show, pause or resume the tenant's queue; while it is paused, jobs are accepted but not started."""
    if action not in ("show", "pause", "resume"):
        raise typer.BadParameter("give show, pause or resume", param_hint="ACTION")
    with service(url) as client:
        if action == "pause":
            found = client.pause_queue(hand_over=hand_over, reason=reason)
        elif action == "resume":
            found = client.resume_queue()
        else:
            found = client.queue()
    if as_json:
        print_json(found)
    else:
        views.show_queue(out, found)


def models(url: Url = None, as_json: Json = False) -> None:
    """List the models that jobs may name."""
    with service(url) as client:
        found = client.models()
    if as_json:
        print_json(found)
    else:
        out.print(views.models_table(found))


def delete(ids: JobIds, url: Url = None) -> None:
    """Delete ended jobs, with their events and files, for good; the audit log keeps its entries."""
    with service(url) as client:
        for id_ in ids:
            client.delete(id_)
            out.print(f"deleted {id_}", highlight=False)
