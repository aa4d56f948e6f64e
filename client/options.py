"""What the command's options are, and how what they say becomes a request."""

import codecs
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
Spec = Annotated[
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
    str | None, typer.Option("--idempotency-key", help="Repeat with the same key, and the job is made once.")
]
Ids = Annotated[list[str], typer.Argument(metavar="JOB...", help="Job ids.")]
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
            "How to judge, for example erased_images=8, thresholds.esr1=0.9 or enabled=false; may be"
            " repeated."
        ),
    ),
]
Fused = Annotated[bool, typer.Option("--fused", help="Deliver a fused checkpoint too.")]
Preserve = Annotated[list[str] | None, typer.Option(help="A concept to keep; may be repeated.")]


def pairs(options: list[str] | None, name: str) -> dict[str, str]:
    for option in options or []:
        if "=" not in option:
            raise typer.BadParameter(f"'{option}' is not key=value", param_hint=name)
    found = [option.split("=", 1) for option in options or []]
    keys = [key for key, _ in found]
    if twice := next((key for key in keys if keys.count(key) > 1), None):
        raise typer.BadParameter(f"'{twice}' is given twice: give it once", param_hint=name)
    return {key: value for key, value in found}


def value_of(text: str) -> Any:
    """JSON where it is JSON, else the text itself: --set steps=10, --set variant=paper."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def finite(value: Any) -> bool:
    """Whether JSON can hold the value: NaN and infinity are none of its numbers."""
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        return False
    return True


def described(names: list[str], **more: Any) -> list[Any]:
    """Concepts as the request has them: names, or the one name with what becomes of it and what it is learned
    from.
    """
    given = {key: value for key, value in more.items() if value}
    if given and len(names) > 1:
        raise typer.BadParameter(
            f"with --{next(iter(given)).rstrip('s')}, name one concept; for several, give --spec",
            param_hint="CONCEPTS",
        )
    return [{"name": names[0], **given}] if given else list(names)


def fields(options: list[str] | None, name: str) -> dict[str, Any]:
    """The parameters that --set, --recovery or --evaluation gives; a point leads into an object:
    lora.rank=8.
    """
    out: dict[str, Any] = {}
    for path, text in pairs(options, name).items():
        *outer, last = path.split(".")
        inner = out
        for part in outer:
            inner = inner.setdefault(part, {})
            if not isinstance(inner, dict):
                break
        if not all((*outer, last)) or not isinstance(inner, dict) or isinstance(inner.get(last), dict):
            raise typer.BadParameter(
                f"'{path}' names no parameter, or one that is given otherwise, too", param_hint=name
            )
        inner[last] = value_of(text)
        if not finite(inner[last]):
            raise typer.BadParameter(
                f"'{path}' is {text}, which is no number that a parameter may have", param_hint=name
            )
    return out


def judging(options: list[str] | None) -> dict[str, Any]:
    """How to judge, as a request has it."""
    return {"evaluation": fields(options, "--evaluation")} if options else {}


def method_of(name: str, settings: list[str] | None) -> Any:
    """The method as the request has it: its name, or with parameters an object."""
    given = fields(settings, "--set")
    if "name" in given:
        raise typer.BadParameter("'name' is the method's own: give it as --method", param_hint="--set")
    return {"name": name, **given} if given else name


def one_of(**options: Any) -> None:
    """A usage error where several options say the same thing."""
    said = [f"--{name}" for name, value in options.items() if value]
    if len(said) > 1:
        raise typer.BadParameter(f"give one of {' and '.join(said)}, not both", param_hint=said[0])


def request_of(ctx: typer.Context, spec: Path) -> Any:
    """A whole request from a file; a usage error where options say something of it, too."""
    beside = [
        parameter.opts[0] if parameter.param_type_name == "option" else str(parameter.name).upper()
        for parameter in ctx.command.params
        if parameter.name not in BESIDE_SPEC and given(ctx, str(parameter.name))
    ]
    if beside:
        raise typer.BadParameter(
            f"the file is the whole request: leave out {', '.join(beside)}, or write it into the file",
            param_hint="--spec",
        )
    return parsed(spec)


def given(ctx: typer.Context, name: str) -> bool:
    """Whether a parameter stood on the command line, be it with its default's value."""
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


BESIDE_SPEC = {"spec", "dry_run", "key", "wait", "download", "url", "as_json"}
"""What a request in a file leaves open."""


def parsed(spec: Path) -> Any:
    """The JSON object in a file, with or without a byte-order mark."""

    def refuse(why: str) -> typer.BadParameter:
        return typer.BadParameter(f"{spec} {why}", param_hint="--spec")

    raw = spec.read_bytes()
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in raw:
        raise refuse("is UTF-16 or binary: save it as UTF-8 (in PowerShell: Out-File -Encoding utf8)")
    try:
        found = json.loads(raw.decode("utf-8-sig"), object_pairs_hook=once)
    except UnicodeDecodeError as error:
        raise refuse(f"is not UTF-8 at byte {error.start}: save it as UTF-8") from error
    except json.JSONDecodeError as error:
        yaml = " (YAML is not read: write it as JSON)" if spec.suffix.lower() in (".yaml", ".yml") else ""
        raise refuse(
            f"is not JSON: {error.msg} at line {error.lineno}, column {error.colno}{yaml}"
        ) from error
    except RecursionError as error:
        raise refuse("is nested too deeply") from error
    except ValueError as error:
        raise refuse(f"cannot be sent: {error}") from error
    if not isinstance(found, dict):
        raise refuse('holds no JSON object, as {"concepts": ["church"]} is one')
    if not finite(found):
        raise refuse("holds NaN or infinity, which JSON has not")
    return found


def once(items: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object's fields, each of which may stand there once."""
    found = dict(items)
    if len(found) < len(items):
        names = [name for name, _ in items]
        raise ValueError(f"'{next(n for n in names if names.count(n) > 1)}' is in it twice")
    return found
