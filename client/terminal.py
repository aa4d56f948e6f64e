"""What every command shares: a client whose errors end the command, and how its jobs are followed, fetched
and printed.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import typer
from pydantic import BaseModel, ValidationError
from rich.console import Console

from expunge.client import views
from expunge.client.api import Expunge, image_type
from expunge.client.download import sha256
from expunge.client.errors import BadFile, ExpungeError
from expunge.client.types import Job, Validated

TO_COME = "00000000-0000-0000-0000-"  # how a dry run is told of what is still to be uploaded
FEWEST = 3  # different images to learn a word from
out, err = Console(soft_wrap=True), Console(stderr=True, soft_wrap=True)


@contextmanager
def service(url: str | None) -> Iterator[Expunge]:
    """A client; its errors end the command with one message and exit code 2."""
    try:
        with Expunge(url) as client:
            client.transport.told = lambda line: err.print(line, style="dim", markup=False, highlight=False)
            yield client
    except ExpungeError as error:
        err.print(str(error), style="red", markup=False, highlight=False)
        raise typer.Exit(2) from error
    except ValidationError as error:
        said = (
            f"{client.transport.url} does not answer as an Expunge service of this version does"
            f" ({error.title})"
        )
        err.print(f"{said}: set EXPUNGE_URL to one", style="red", markup=False, highlight=False)
        raise typer.Exit(2) from error


def plain_of(item: Any) -> Any:
    return item.model_dump(mode="json") if isinstance(item, BaseModel) else item


def emit(value: Any) -> None:
    """One JSON document on standard output."""
    plain = [plain_of(item) for item in value] if isinstance(value, list) else plain_of(value)
    sys.stdout.write(json.dumps(plain, indent=2, ensure_ascii=False) + "\n")


def checked(found: Validated) -> None:
    """A spec on standard output, what was noticed about it on standard error."""
    views.show_notes(err, found.notes)
    emit(found.spec)


def sent(client: Expunge, files: list[Path], key: str | None) -> list[str]:
    """Ids of the uploaded images; with a key, a repeat uploads none twice."""
    return [
        client.upload_image(file, idempotency_key=key and f"{key}-{i}").id for i, file in enumerate(files)
    ]


def foreseen(client: Expunge, kind: str, request: dict[str, Any], files: dict[str, list[Path]]) -> Validated:
    """Whether a request with these images and masks would be accepted, before a byte of them is sent.
    ApiError, BadFile.

    A dry run takes the ids 00000000-0000-0000-0000-000000000001 and so on for images that are still to be
    uploaded.
    """
    for file in (file for each in files.values() for file in each):
        image_type(file)
    different = len({sha256(file) for file in files.get("images", [])})
    if different < min(FEWEST, len(files.get("images", []))):
        raise BadFile(
            f"the images are {different} different one{'s' * (different > 1)}: give {FEWEST} to 10 that"
            " differ"
        )
    ids = (f"{TO_COME}{i:012x}" for i in count(1))
    to_come = {field: [next(ids) for _ in each] for field, each in files.items()}
    found = client.validate(kind, request | {"concepts": [request["concepts"][0] | to_come]})
    found.spec["concepts"][0] |= {field: [str(file) for file in each] for field, each in files.items()}
    return found


def delta_id(client: Expunge, kind: str, request: dict[str, Any], file: Path, model: str) -> str:
    """The id of an uploaded delta; nothing is sent unless the request would be accepted with it. ApiError."""
    client.validate(kind, request | {"artifact_id": f"{TO_COME}{1:012x}"})
    return client.upload(file, model=model).id


def follow(client: Expunge, job: Job, quiet: bool) -> Job:
    """The finished job; on standard error a live bar, or where that is no terminal a line now and then.

    Ctrl-C leaves the job running.
    """
    try:
        if quiet:
            return client.wait(job)
        with views.Live(err, job) if err.is_terminal else views.Lines(err) as told:
            return client.wait(job, told)
    except KeyboardInterrupt:
        err.print(
            f"the job goes on: 'expunge wait {job.id}' follows it again, 'expunge cancel {job.id}' stops it",
            highlight=False,
        )
        raise typer.Exit(130) from None


def finish(
    client: Expunge, jobs: list[Job], *, wait: bool, folder: Path | None, as_json: bool, one: bool
) -> None:
    """Follow, download, print; exit code 0 only when every job followed succeeded and no verdict failed."""
    if wait or folder:
        if not as_json:
            for job in jobs:
                err.print(f"job {job.id}", highlight=False)
                views.show_notes(err, job.notes)
        jobs = [follow(client, job, as_json) for job in jobs]
    if folder:
        for job in jobs:
            if job.status == "succeeded":
                client.download(job, folder if len(jobs) == 1 else folder / job.id)
    if as_json:
        emit(jobs[0] if one else jobs)
    else:
        for job in jobs:
            views.show(out, job)
            if job.kind == "inspect" and job.ok:
                out.print(views.ranking_table(client.report(job)))
    if (wait or folder) and not all(job.ok for job in jobs):
        raise typer.Exit(1)
