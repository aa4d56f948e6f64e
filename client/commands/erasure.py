"""`expunge erase`, `combine` and `hide`: jobs that change a model."""

from pathlib import Path
from typing import Annotated, Any

import typer

from expunge.client import spec_file
from expunge.client.before_upload import check_with_images, upload_images, upload_prompts, with_prompts
from expunge.client.options import (
    DryRun,
    Evaluation,
    Folder,
    Fused,
    IdempotencyKey,
    JobIds,
    Json,
    Labels,
    Model,
    Preserve,
    Prompts,
    Seed,
    Settings,
    SpecFile,
    Url,
    Wait,
    concepts_with,
    evaluation_fields,
    labels_of,
    method_field,
    parameters,
    prompt_set,
)
from expunge.client.requests import erase_spec
from expunge.client.terminal import err, finish, print_spec, service


def erase(
    ctx: typer.Context,
    concepts: Annotated[
        list[str] | None, typer.Argument(help="What to erase, for example: church 'delivery truck'.")
    ] = None,
    model: Model = "emoji",
    method: Annotated[
        str, typer.Option(help="A method, such as uce, mace, esd or age; the API's /docs lists them all.")
    ] = "age",
    settings: Settings = None,
    preserve: Preserve = None,
    on: Annotated[
        str | None, typer.Option("--on", help="A finished erase job: this erasure is stacked on top of it.")
    ] = None,
    append: Annotated[
        str | None,
        typer.Option(
            "--append", help="A finished erase job: what it erased is erased anew, together with this."
        ),
    ] = None,
    target: Annotated[str | None, typer.Option(help="Edit: what the one concept becomes.")] = None,
    attribute: Annotated[
        list[str] | None,
        typer.Option(
            help="Debias: an attribute that the one concept gets as often as the others; repeat it."
        ),
    ] = None,
    image: Annotated[
        list[Path] | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="Visual edit: an image of the one concept; repeat it, 3 to 10 images.",
        ),
    ] = None,
    mask: Annotated[
        list[Path] | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="Mask edit: white where the image is kept; one mask for each image.",
        ),
    ] = None,
    seed: Seed = 0,
    evaluation: Evaluation = None,
    prompts: Prompts = None,
    fused: Fused = False,
    label: Labels = None,
    spec: SpecFile = None,
    dry_run: DryRun = False,
    key: IdempotencyKey = None,
    wait: Wait = True,
    download: Folder = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Erase concepts from a model."""
    if spec:
        request, files = spec_file.request_from(ctx, spec), {}
    else:
        files = {field: given for field, given in (("images", image), ("masks", mask)) if given}
        request = erase_spec(
            concepts_with(named(concepts), target=target, attributes=attribute, **files),
            model=model,
            method=method_field(method, settings),
            preserve=preserve or (),
            seed=seed,
            fused=fused,
            labels=labels_of(label),
            **evaluation_fields(evaluation),
            **({"base_job_id": on} if on else {}),
            **({"append_job_id": append} if append else {}),
        )
    asked = prompt_set(prompts)
    with service(url) as client:
        # Files are uploaded once the request is known to be good but for what is in them
        whole = with_prompts(request, asked)
        checked = check_with_images(client, "erase", whole, files) if files else None
        if checked and not dry_run:
            for field, given in files.items():
                request["concepts"][0][field] = upload_images(client, given, key and f"{key}-{field}")
        if dry_run:
            if checked:
                err.print("the images were not sent: what they show is checked when they are", style="dim")
            print_spec(checked or client.validate("erase", whole))
            return
        request = upload_prompts(client, "erase", request, asked)
        job = client.submit("erase", request, idempotency_key=key)
        finish(client, job, wait=wait, folder=download, as_json=as_json)


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
    seed: Seed = 0,
    evaluation: Evaluation = None,
    prompts: Prompts = None,
    fused: Fused = False,
    seal_to: Annotated[
        str | None,
        typer.Option(
            "--seal-to",
            help="Your public key from 'expunge key-pair': only its owner can open the recovery key.",
        ),
    ] = None,
    label: Labels = None,
    spec: SpecFile = None,
    dry_run: DryRun = False,
    key: IdempotencyKey = None,
    wait: Wait = True,
    download: Folder = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Hide concepts behind a recovery key, which 'expunge recovery-key' fetches and --download does not."""
    if spec:
        request = spec_file.request_from(ctx, spec)
    else:
        request = erase_spec(
            named(concepts),
            model=model,
            method=method_field(method, settings),
            preserve=preserve or (),
            seed=seed,
            fused=fused,
            labels=labels_of(label),
            **evaluation_fields(evaluation),
            **({"recovery": parameters(recovery, "--recovery")} if recovery else {}),
            **({"seal_to": seal_to} if seal_to else {}),
        )
    asked = prompt_set(prompts)
    with service(url) as client:
        if dry_run:
            print_spec(client.validate("hide", with_prompts(request, asked)))
            return
        request = upload_prompts(client, "hide", request, asked)
        job = client.submit("hide", request, idempotency_key=key)
        finish(client, job, wait=wait, folder=download, as_json=as_json)


def named(concepts: list[str] | None) -> list[str]:
    """Raises: typer.BadParameter where no concept is named."""
    if not concepts:
        raise typer.BadParameter("name at least one concept, or give --spec", param_hint="CONCEPTS")
    return concepts


def combine(
    ids: JobIds,
    model: Model = "emoji",
    evaluation: Evaluation = None,
    fused: Fused = False,
    label: Labels = None,
    wait: Wait = True,
    download: Folder = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Sum finished erase jobs into one delta; leaving one of a stack out undoes it."""
    with service(url) as client:
        more: dict[str, Any] = {"labels": labels_of(label), **evaluation_fields(evaluation)}
        job = client.combine(ids, model=model, fused=fused, **more)
        finish(client, job, wait=wait, folder=download, as_json=as_json)
