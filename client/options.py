"""What the command's options are, and how what they say becomes a request."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

Url = Annotated[str | None, typer.Option("--url", envvar="EXPUNGE_URL", help="Address of the service.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else on standard output.")]
Model = Annotated[str, typer.Option("--model", help="A registered model; 'expunge models' lists them.")]
Labels = Annotated[list[str] | None, typer.Option("--label", help="key=value; may be repeated.")]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Follow the job to its end.")]
Folder = Annotated[
    Path | None, typer.Option("--download", help="Put the artifacts into this folder once the job has succeeded (implies --wait).")
]
Spec = Annotated[
    Path | None, typer.Option("--spec", exists=True, dir_okay=False, help="A JSON file with the whole request, instead of the options.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check the request and print it with every default; store nothing.")]
IdempotencyKey = Annotated[str | None, typer.Option("--idempotency-key", help="Repeat with the same key, and the job is made once.")]
Ids = Annotated[list[str], typer.Argument(metavar="JOB...", help="Job ids.")]
Settings = Annotated[list[str] | None, typer.Option("--set", help="A parameter of the method, for example steps=60; may be repeated.")]
Fused = Annotated[bool, typer.Option("--fused", help="Deliver a fused checkpoint too.")]
Preserve = Annotated[list[str] | None, typer.Option(help="A concept to keep; may be repeated.")]


def pairs(options: list[str] | None, name: str) -> dict[str, str]:
    for option in options or []:
        if "=" not in option:
            raise typer.BadParameter(f"'{option}' is not key=value", param_hint=name)
    return dict(option.split("=", 1) for option in options or [])


def value_of(text: str) -> Any:
    """JSON where it is JSON, else the text itself: --set steps=10, --set variant=paper."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def described(names: list[str], **more: Any) -> list[Any]:
    """Concepts as the request has them: names, or the one name with what becomes of it and what it is learned from."""
    given = {key: value for key, value in more.items() if value}
    if given and len(names) > 1:
        raise typer.BadParameter(
            f"with --{next(iter(given)).rstrip('s')}, name one concept; for several, give --spec", param_hint="CONCEPTS"
        )
    return [{"name": names[0], **given}] if given else list(names)


def fields(options: list[str] | None, name: str) -> dict[str, Any]:
    """The parameters that --set or --recovery gives."""
    return {key: value_of(text) for key, text in pairs(options, name).items()}


def method_of(name: str, settings: list[str] | None) -> Any:
    """The method as the request has it: its name, or with parameters an object."""
    return {"name": name, **fields(settings, "--set")} if settings else name


def request_of(spec: Path) -> Any:
    """A whole request from a file."""
    try:
        return json.loads(spec.read_text())
    except ValueError as error:
        raise typer.BadParameter(f"{spec} is not JSON: {error}", param_hint="--spec") from error
