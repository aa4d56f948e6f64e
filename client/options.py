"""The options that commands share, and how their values become parts of a request."""

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
    Path | None,
    typer.Option(
        "--download", help="Put the artifacts into this folder once the job has succeeded (implies --wait)."
    ),
]
SpecFile = Annotated[
    Path | None,
    typer.Option(
        "--spec",
        exists=True,
        dir_okay=False,
        help="A JSON file with the whole request, instead of the options.",
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Check the request and print it with every default; store nothing.")
]
IdempotencyKey = Annotated[
    str | None,
    typer.Option("--idempotency-key", help="A repeated request with the same key creates no second job."),
]
JobId = Annotated[str, typer.Argument(metavar="JOB", help="A job id.")]
JobIds = Annotated[list[str], typer.Argument(metavar="JOB...", help="Job ids.")]
IntoFolder = Annotated[Path, typer.Argument(help="The folder to write to; created if missing.")]
FinishedJob = Annotated[str | None, typer.Option("--job", help="A finished job.")]
UploadedDelta = Annotated[str | None, typer.Option("--artifact", help="An uploaded delta.")]
DeltaFile = Annotated[
    Path | None, typer.Option("--delta", exists=True, dir_okay=False, help="A LoRA file to upload first.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="A parameter of the method, for example steps=60 or lora.rank=8; may be repeated."
    ),
]
Evaluation = Annotated[
    list[str] | None,
    typer.Option(
        "--evaluation",
        help=(
            "A parameter of the evaluation, for example erased_images=8, thresholds.esr1=0.9, attacks=quick"
            " or enabled=false; may be repeated."
        ),
    ),
]
Prompts = Annotated[
    str | None,
    typer.Option(
        "--prompts",
        metavar="FILE|NAME",
        help=(
            "A prompt set to judge nudity on: a file to upload first (CSV or JSON lines, in I2P's format), or"
            " the name of a set of the service."
        ),
    ),
]
Seed = Annotated[int, typer.Option(help="The seed of the training.")]
Fused = Annotated[bool, typer.Option("--fused", help="Also deliver a fused checkpoint.")]
Preserve = Annotated[list[str] | None, typer.Option(help="A concept to preserve; may be repeated.")]


def pairs(options: list[str] | None, name: str) -> dict[str, str]:
    """The option's `key=value`s. Raises: typer.BadParameter where one is not, or a key is repeated."""
    found: dict[str, str] = {}
    for option in options or []:
        key, equals, value = option.partition("=")
        if not equals:
            raise typer.BadParameter(f"'{option}' is not key=value", param_hint=name)
        if key in found:
            raise typer.BadParameter(f"'{key}' is given twice: give it once", param_hint=name)
        found[key] = value
    return found


def labels_of(options: list[str] | None) -> dict[str, str]:
    return pairs(options, "--label")


def parameters(options: list[str] | None, name: str) -> dict[str, Any]:
    """The option's parameters; a point leads into an object: lora.rank=8.

    Raises: typer.BadParameter where one cannot stand in a request, or contradicts another.
    """
    found: dict[str, Any] = {}
    for path, text in pairs(options, name).items():
        *outer, last = path.split(".")
        inner = found
        for part in outer:
            inner = inner.setdefault(part, {})
            if not isinstance(inner, dict):
                break
        contradicts = not isinstance(inner, dict) or isinstance(inner.get(last), dict)
        if contradicts or not all((*outer, last)):
            raise typer.BadParameter(
                f"'{path}' is not the name of a parameter, or contradicts another one", param_hint=name
            )
        inner[last] = parsed_value(text)
        if not fits_json(inner[last]):
            raise typer.BadParameter(
                f"'{path}' is {text}: give a finite number, as JSON has no other", param_hint=name
            )
    return found


def parsed_value(text: str) -> Any:
    """JSON where the text is JSON (steps=10), or else the text itself (variant=paper)."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def fits_json(value: Any) -> bool:
    """Whether JSON can hold the value; it has neither NaN nor infinity."""
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        return False
    return True


def evaluation_fields(options: list[str] | None) -> dict[str, Any]:
    """The field `evaluation` of a request, where --evaluation is given."""
    return {"evaluation": parameters(options, "--evaluation")} if options else {}


def prompt_set(prompts: str | None) -> Path | str | None:
    """The file or name that --prompts gives. Raises: typer.BadParameter where a file is missing."""
    if prompts is None:
        return None
    file = Path(prompts)
    if file.is_file():
        return file
    if "/" in prompts or file.suffix.casefold() in (".csv", ".json", ".jsonl"):
        raise typer.BadParameter(f"there is no file '{prompts}'", param_hint="--prompts")
    return prompts


def method_field(name: str, settings: list[str] | None) -> Any:
    """A request's method: its name, or an object with its parameters."""
    given = parameters(settings, "--set")
    if "name" in given:
        raise typer.BadParameter(
            "'name' is not a parameter of the method: give it as --method", param_hint="--set"
        )
    return {"name": name, **given} if given else name


def concepts_with(names: list[str], **fields: Any) -> list[Any]:
    """A request's concepts: the names, or the one name with the fields that say more about it."""
    given = {field: value for field, value in fields.items() if value}
    if given and len(names) > 1:
        option = next(iter(given)).rstrip("s")
        raise typer.BadParameter(
            f"with --{option}, name one concept; for several, give --spec", param_hint="CONCEPTS"
        )
    return [{"name": names[0], **given}] if given else list(names)


def at_most_one(**options: Any) -> None:
    """Raises: typer.BadParameter where several options say the same thing."""
    given = [f"--{name}" for name, value in options.items() if value]
    if len(given) > 1:
        raise typer.BadParameter(f"give one of {' and '.join(given)}, not both", param_hint=given[0])
