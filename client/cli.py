"""The `expunge` command line. Results go to standard output, everything else to standard error."""

from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from expunge.client import views
from expunge.client.options import (
    DryRun,
    Evaluation,
    Folder,
    Fused,
    IdempotencyKey,
    Ids,
    Json,
    Labels,
    Model,
    Preserve,
    Settings,
    Spec,
    Url,
    Wait,
    described,
    fields,
    judging,
    method_of,
    one_of,
    pairs,
    request_of,
)
from expunge.client.plugins import Group
from expunge.client.requests import erase_spec, inspect_spec, listed, of_delta
from expunge.client.terminal import checked, delta_id, emit, err, finish, foreseen, out, sent, service

app = typer.Typer(cls=Group, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


def tell_version(asked: bool) -> None:
    if asked:
        typer.echo(f"expunge {version('expunge')}")
        raise typer.Exit


@app.callback()
def main(
    _version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=tell_version, help="Print the version.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="On an unforeseen error, show where; EXPUNGE_DEBUG=1 does, too.")
    ] = False,
) -> None:
    """Take concepts out of text-to-image models, with proof.

    Exit codes: 0 all is well; 1 a job or its verdict failed; 2 a request, file or address is wrong, or the
    service refused; 130 Ctrl-C; 70 unforeseen.
    """


@app.command()
def erase(
    ctx: typer.Context,
    concepts: Annotated[
        list[str] | None, typer.Argument(help="What to erase, for example: church 'delivery truck'.")
    ] = None,
    model: Model = "emoji",
    method: Annotated[
        str,
        typer.Option(help="A method's name, such as uce, mace, esd or age; the API's /docs has them all."),
    ] = "age",
    settings: Settings = None,
    preserve: Preserve = None,
    on: Annotated[
        str | None,
        typer.Option("--on", help="A finished erase job to start from: this erasure is stacked on its."),
    ] = None,
    target: Annotated[str | None, typer.Option(help="Edit: what the one concept named becomes.")] = None,
    attribute: Annotated[
        list[str] | None, typer.Option(help="Debias: what to spread the one concept named over; repeat it.")
    ] = None,
    image: Annotated[
        list[Path] | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="Visual edit: an image that shows the one concept named; 3 to 10 of them.",
        ),
    ] = None,
    mask: Annotated[
        list[Path] | None,
        typer.Option(
            exists=True, dir_okay=False, help="Mask edit: white where the image is kept; one for each image."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the training.")] = 0,
    evaluation: Evaluation = None,
    fused: Fused = False,
    label: Labels = None,
    spec: Spec = None,
    dry_run: DryRun = False,
    key: IdempotencyKey = None,
    wait: Wait = True,
    download: Folder = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Take concepts out of a model."""
    if spec:
        request = request_of(ctx, spec)
    elif concepts:
        below = {"base_job_id": on} if on else {}
        request = erase_spec(
            described(concepts, target=target, attributes=attribute, images=image, masks=mask),
            model=model,
            method=method_of(method, settings),
            preserve=preserve or (),
            seed=seed,
            fused=fused,
            labels=pairs(label, "--label"),
            **below,
            **judging(evaluation),
        )
    else:
        raise typer.BadParameter("name at least one concept, or give --spec", param_hint="CONCEPTS")
    files = {} if spec else {field: given for field, given in (("images", image), ("masks", mask)) if given}
    with service(url) as client:
        if files:
            found = foreseen(client, "erase", request, files)
            if dry_run:
                err.print("no image was sent: what is in them is looked at when they are", style="dim")
                checked(found)
                return
            request["concepts"][0] |= {
                field: sent(client, given, key and f"{key}-{field}") for field, given in files.items()
            }
        if dry_run:
            checked(client.validate("erase", request))
            return
        finish(
            client,
            [client.submit("erase", request, idempotency_key=key)],
            wait=wait,
            folder=download,
            as_json=as_json,
            one=True,
        )


@app.command()
def combine(
    ids: Ids,
    model: Model = "emoji",
    evaluation: Evaluation = None,
    fused: Fused = False,
    label: Labels = None,
    wait: Wait = True,
    download: Folder = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Sum finished erase jobs into one delta; leave one of a stack out to take it back out."""
    with service(url) as client:
        found = client.combine(
            ids, model=model, fused=fused, labels=pairs(label, "--label"), **judging(evaluation)
        )
        finish(client, [found], wait=wait, folder=download, as_json=as_json, one=True)


@app.command()
def hide(
    ctx: typer.Context,
    concepts: Annotated[
        list[str] | None, typer.Argument(help="What to hide, for example: church 'delivery truck'.")
    ] = None,
    model: Model = "emoji",
    method: Annotated[
        str, typer.Option(help="The erasing term: naive, esd, all_but_one, ap or age.")
    ] = "age",
    settings: Settings = None,
    recovery: Annotated[
        list[str] | None,
        typer.Option(
            "--recovery", help="A parameter of the recovery, for example length=16; may be repeated."
        ),
    ] = None,
    preserve: Preserve = None,
    seed: Annotated[int, typer.Option(help="Of the training.")] = 0,
    evaluation: Evaluation = None,
    fused: Fused = False,
    seal_to: Annotated[
        str | None,
        typer.Option(
            "--seal-to",
            help="Your public key from 'expunge key-pair': only its owner can open the recovery key.",
        ),
    ] = None,
    label: Labels = None,
    spec: Spec = None,
    dry_run: DryRun = False,
    key: IdempotencyKey = None,
    wait: Wait = True,
    download: Folder = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Hide concepts behind a recovery key. --download leaves the key where it is; 'expunge recovery-key'
    fetches it.
    """
    if spec:
        request = request_of(ctx, spec)
    elif concepts:
        request = erase_spec(
            concepts,
            model=model,
            method=method_of(method, settings),
            preserve=preserve or (),
            seed=seed,
            fused=fused,
            labels=pairs(label, "--label"),
            **judging(evaluation),
        )
        request |= {"recovery": fields(recovery, "--recovery")} if recovery else {}
        request |= {"seal_to": seal_to} if seal_to else {}
    else:
        raise typer.BadParameter("name at least one concept, or give --spec", param_hint="CONCEPTS")
    with service(url) as client:
        if dry_run:
            checked(client.validate("hide", request))
            return
        finish(
            client,
            [client.submit("hide", request, idempotency_key=key)],
            wait=wait,
            folder=download,
            as_json=as_json,
            one=True,
        )


@app.command("recovery-key")
def recovery_key(
    id_: Annotated[str, typer.Argument(metavar="JOB")],
    folder: Annotated[Path, typer.Argument(help="Where to; made if need be.")] = Path("."),
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Fetch a hide job's recovery key (mode 0600); takes the scope keys:read, and the read is noted."""
    with service(url) as client:
        (path,) = client.download(client.recovery_key(id_), folder)
    emit(str(path)) if as_json else out.print(str(path), markup=False, highlight=False)


@app.command("key-reads")
def key_reads(
    id_: Annotated[str, typer.Argument(metavar="JOB")], url: Url = None, as_json: Json = False
) -> None:
    """List who read a hide job's recovery key, newest first; takes the scope admin."""
    with service(url) as client:
        found = list(client.reads(client.recovery_key(id_)))
    emit(found) if as_json else out.print(views.reads_table(found))


@app.command("revoke-key")
def revoke_key(
    id_: Annotated[str, typer.Argument(metavar="JOB")], url: Url = None, as_json: Json = False
) -> None:
    """Delete a hide job's recovery key for good; takes the scope admin."""
    with service(url) as client:
        found = client.revoke(client.recovery_key(id_))
    (
        emit(found)
        if as_json
        else out.print(f"revoked at {found.revoked_at:%Y-%m-%d %H:%M:%S} UTC", highlight=False)
    )


@app.command()
def evaluate(
    concepts: Annotated[
        list[str] | None, typer.Argument(help="The erased concepts; needed for an uploaded delta.")
    ] = None,
    job: Annotated[str | None, typer.Option("--job", help="A finished erase or hide job.")] = None,
    artifact: Annotated[str | None, typer.Option("--artifact", help="An uploaded delta.")] = None,
    delta: Annotated[
        Path | None,
        typer.Option("--delta", exists=True, dir_okay=False, help="A LoRA file to upload and judge."),
    ] = None,
    model: Model = "emoji",
    evaluation: Evaluation = None,
    label: Labels = None,
    wait: Wait = True,
    download: Folder = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Judge a sanitized model."""
    one_of(job=job, artifact=artifact, delta=delta)
    with service(url) as client:
        request = {
            "model": model,
            "concepts": listed(concepts or []),
            "labels": pairs(label, "--label"),
            **judging(evaluation),
        }
        request |= of_delta(job, delta_id(client, "evaluate", request, delta, model) if delta else artifact)
        found = client.submit("evaluate", request)
        finish(client, [found], wait=wait, folder=download, as_json=as_json, one=True)


@app.command()
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
    """Predict what an erasure would hurt, the best targets and the cost; nothing is run."""
    with service(url) as client:
        found = client.impact(concepts, model=model, method=method_of(method, settings), top=top)
    if as_json:
        emit(found)
        return
    for table in views.impact_tables(found):
        out.print(table)
    if found.cost:
        err.print(
            f"about {found.cost['seconds']:.0f} s on two CPU cores, {found.cost['unet_evaluations']} U-Net"
            " evaluations"
        )
    for note in found.notes:
        err.print(note, style="dim", markup=False, highlight=False)


@app.command()
def inspect(
    job: Annotated[str | None, typer.Option("--job", help="A finished job.")] = None,
    artifact: Annotated[str | None, typer.Option("--artifact", help="An uploaded delta.")] = None,
    delta: Annotated[
        Path | None,
        typer.Option("--delta", exists=True, dir_okay=False, help="A LoRA file to upload and inspect."),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option("--against", help="A finished job to compare with, instead of the base model."),
    ] = None,
    concept: Annotated[
        str | None, typer.Option(help="What was changed; omitted: what the job erased, or what moved most.")
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
    one_of(job=job, artifact=artifact, delta=delta)
    with service(url) as client:
        request = inspect_spec(
            job=job,
            artifact=artifact,
            against=against,
            concept=concept,
            concept_space=space,
            model=model,
            labels=pairs(label, "--label"),
            **fields(settings, "--set"),
        )
        request |= of_delta(None, delta_id(client, "inspect", request, delta, model)) if delta else {}
        found = client.submit("inspect", request)
        finish(client, [found], wait=wait, folder=download, as_json=as_json, one=True)


@app.command()
def wait(ids: Ids, download: Folder = None, url: Url = None, as_json: Json = False) -> None:
    """Follow jobs to their end; exit code 0 only when all succeeded and no verdict failed."""
    with service(url) as client:
        finish(
            client, [client.job(id_) for id_ in ids], wait=True, folder=download, as_json=as_json, one=False
        )


@app.command()
def jobs(
    kind: Annotated[str | None, typer.Option(help="erase, hide, combine, evaluate or inspect.")] = None,
    status: Annotated[
        str | None, typer.Option(help="queued, running, cancelling, succeeded, failed, cancelled or expired.")
    ] = None,
    label: Labels = None,
    limit: Annotated[int, typer.Option(min=1, max=200)] = 20,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """List jobs, newest first."""
    with service(url) as client:
        found = client.jobs_page(kind=kind, status=status, labels=pairs(label, "--label"), limit=limit).items
    emit(found) if as_json else out.print(views.jobs_table(found))


@app.command()
def show(id_: Annotated[str, typer.Argument(metavar="JOB")], url: Url = None, as_json: Json = False) -> None:
    """Show one job."""
    with service(url) as client:
        job = client.job(id_)
    emit(job) if as_json else views.show(out, job)


@app.command()
def cancel(ids: Ids, url: Url = None, as_json: Json = False) -> None:
    """Cancel jobs; a running one stops at its next step."""
    with service(url) as client:
        finish(
            client, [client.cancel(id_) for id_ in ids], wait=False, folder=None, as_json=as_json, one=False
        )


@app.command()
def retry(
    id_: Annotated[str, typer.Argument(metavar="JOB")],
    wait: Wait = True,
    download: Folder = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Run a failed, cancelled or expired job again, as a new job."""
    with service(url) as client:
        finish(client, [client.retry(id_)], wait=wait, folder=download, as_json=as_json, one=True)


@app.command()
def download(
    id_: Annotated[str, typer.Argument(metavar="JOB")],
    folder: Annotated[Path, typer.Argument(help="Where to; made if need be.")] = Path("."),
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Fetch a job's artifacts; resumes, and verifies every sha256."""
    with service(url) as client:
        paths = client.download(id_, folder)
        if not paths:
            job = client.job(id_)
            err.print(
                f"job {job.id} is {job.status}: there is nothing to download", style="red", highlight=False
            )
    if as_json:
        emit([str(path) for path in paths])
    else:
        for path in paths:
            out.print(str(path), markup=False, highlight=False)
    if not paths:
        raise typer.Exit(1)


@app.command()
def queue(
    action: Annotated[
        str, typer.Argument(help="show, pause or resume; the last two take the scope admin.")
    ] = "show",
    hand_over: Annotated[
        bool,
        typer.Option(
            "--hand-over", help="pause: stop running jobs at their next checkpoint, to go on afterwards."
        ),
    ] = False,
    reason: Annotated[str, typer.Option(help="pause: for people.")] = "",
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Show, pause or resume the tenant's queue; while it is paused jobs are accepted and none starts."""
    if action not in ("show", "pause", "resume"):
        raise typer.BadParameter("say show, pause or resume", param_hint="ACTION")
    with service(url) as client:
        if action == "pause":
            found = client.pause_queue(hand_over=hand_over, reason=reason)
        else:
            found = client.resume_queue() if action == "resume" else client.queue()
    emit(found) if as_json else views.show_queue(out, found)


@app.command()
def models(url: Url = None, as_json: Json = False) -> None:
    """List the models that jobs may name."""
    with service(url) as client:
        found = client.models()
    emit(found) if as_json else out.print(views.models_table(found))


artifacts = typer.Typer(no_args_is_help=True, help="List and delete uploaded images and deltas.")
app.add_typer(artifacts, name="artifacts")


@artifacts.command("list")
def list_artifacts(url: Url = None, as_json: Json = False) -> None:
    """List uploads, newest first."""
    with service(url) as client:
        found = list(client.uploads())
    emit(found) if as_json else out.print(views.uploads_table(found))


@artifacts.command("delete")
def delete_artifacts(
    ids: Annotated[list[str], typer.Argument(metavar="ARTIFACT...", help="Artifact ids.")], url: Url = None
) -> None:
    """Delete uploads, or jobs' files, for good; refused while a job needs them."""
    with service(url) as client:
        for id_ in ids:
            client.delete(client.artifact(id_))
            out.print(f"deleted {id_}", highlight=False)


@app.command()
def delete(ids: Ids, url: Url = None) -> None:
    """Delete jobs that have ended, with their events and files, for good; the audit stays."""
    with service(url) as client:
        for id_ in ids:
            client.delete(id_)
            out.print(f"deleted {id_}", highlight=False)
