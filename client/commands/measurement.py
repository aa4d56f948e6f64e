"""`expunge evaluate`, `compare`, `impact` and `inspect`: what a change did, or would do."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from expunge.client import views
from expunge.client.before_upload import upload_delta, upload_prompts, with_prompts
from expunge.client.options import (
    DeltaFile,
    Evaluation,
    FinishedJob,
    Folder,
    Json,
    Labels,
    Model,
    Prompts,
    Settings,
    UploadedDelta,
    Url,
    Wait,
    at_most_one,
    evaluation_fields,
    labels_of,
    method_field,
    parameters,
    prompt_set,
)
from expunge.client.requests import delta_fields, inspect_spec
from expunge.client.terminal import err, finish, out, print_json, print_plain, service


def evaluate(
    concepts: Annotated[
        list[str] | None, typer.Argument(help="The erased concepts; needed for an uploaded delta.")
    ] = None,
    job: FinishedJob = None,
    artifact: UploadedDelta = None,
    delta: DeltaFile = None,
    model: Model = "emoji",
    evaluation: Evaluation = None,
    prompts: Prompts = None,
    label: Labels = None,
    wait: Wait = True,
    download: Folder = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Evaluate a sanitized model."""
    at_most_one(job=job, artifact=artifact, delta=delta)
    asked = prompt_set(prompts)
    with service(url) as client:
        request: dict[str, Any] = {"model": model, "concepts": concepts or [], "labels": labels_of(label)}
        request |= evaluation_fields(evaluation)
        if delta:
            artifact = upload_delta(client, "evaluate", with_prompts(request, asked), delta, model)
        request = upload_prompts(client, "evaluate", request | delta_fields(job, artifact), asked)
        started = client.submit("evaluate", request)
        finish(client, started, wait=wait, folder=download, as_json=as_json)


def compare(
    ids: Annotated[list[str], typer.Argument(metavar="JOB JOB...", help="2 to 16 finished jobs.")],
    whole: Annotated[bool, typer.Option("--all", help="Also show each preserved concept.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print a row for each figure, as CSV.")] = False,
    page: Annotated[
        Path | None, typer.Option("--html", dir_okay=False, help="Write a page to this file instead.")
    ] = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Compare jobs that erase a concept in common: what is better, what is worse, what is not shown."""
    at_most_one(json=as_json, csv=as_csv, html=page)
    with service(url) as client:
        if page is not None:
            page.write_text(client.compare_as(ids, "text/html"), encoding="utf-8")
            return
        if as_csv:
            sys.stdout.write(client.compare_as(ids, "text/csv"))
            return
        found = client.compare(ids)
    if as_json:
        print_json(found)
        return
    print_plain(out, f"concepts: {', '.join(found.concepts)}")
    out.print(views.compared_jobs_table(found))
    for each in found.differences:
        print_plain(out, f"warning: {each['message']}", "yellow")
    out.print(views.comparison_table(found, whole=whole))
    for note in found.notes:
        print_plain(err, note, "dim")


def impact(
    concepts: Annotated[
        list[str], typer.Argument(help="What would be erased, for example: church 'delivery truck'.")
    ],
    method: Annotated[str, typer.Option(help="A method's name.")] = "age",
    settings: Settings = None,
    top: Annotated[int, typer.Option(min=1, max=100, help="How many concepts to rank.")] = 10,
    model: Model = "emoji",
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Predict what an erasure would hurt, the best targets and the cost; no job is run."""
    with service(url) as client:
        found = client.impact(concepts, model=model, method=method_field(method, settings), top=top)
    if as_json:
        print_json(found)
        return
    for table in views.impact_tables(found):
        out.print(table)
    if found.cost:
        seconds, evaluations = found.cost["seconds"], found.cost["unet_evaluations"]
        err.print(f"about {seconds:.0f} s on two CPU cores, {evaluations} U-Net evaluations")
    for note in found.notes:
        print_plain(err, note, "dim")


def inspect(
    job: FinishedJob = None,
    artifact: UploadedDelta = None,
    delta: DeltaFile = None,
    against: Annotated[
        str | None, typer.Option("--against", help="A finished job to compare with, not the base model.")
    ] = None,
    concept: Annotated[
        str | None,
        typer.Option(help="What was changed; by default what the job erased, or what moved most."),
    ] = None,
    space: Annotated[str, typer.Option(help="The concepts to look at: model, english or clip.")] = "model",
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="A parameter, for example locality=1; may be repeated.")
    ] = None,
    model: Model = "emoji",
    label: Labels = None,
    wait: Wait = True,
    download: Folder = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Rank the concepts that moved most between two models."""
    at_most_one(job=job, artifact=artifact, delta=delta)
    with service(url) as client:
        request = inspect_spec(
            job=job,
            artifact=artifact,
            against=against,
            concept=concept,
            concept_space=space,
            model=model,
            labels=labels_of(label),
            **parameters(settings, "--set"),
        )
        if delta:
            request |= delta_fields(None, upload_delta(client, "inspect", request, delta, model))
        started = client.submit("inspect", request)
        finish(client, started, wait=wait, folder=download, as_json=as_json)
