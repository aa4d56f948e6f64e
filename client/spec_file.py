"""`--spec FILE`: a whole request from a file of JSON."""

import codecs
import json
from pathlib import Path
from typing import Any

import typer

from expunge.client.options import fits_json

BESIDE_SPEC = {"spec", "dry_run", "key", "wait", "download", "url", "as_json"}
"""The parameters of a command that say nothing about the request itself."""


def request_from(ctx: typer.Context, spec: Path) -> Any:
    """The request in a file. Raises: typer.BadParameter where options, too, say what is requested."""
    contradicting = []
    for parameter in ctx.command.params:
        if parameter.name not in BESIDE_SPEC and on_command_line(ctx, str(parameter.name)):
            is_option = parameter.param_type_name == "option"
            contradicting.append(parameter.opts[0] if is_option else str(parameter.name).upper())
    if contradicting:
        raise typer.BadParameter(
            f"the file is the whole request: leave out {', '.join(contradicting)}, or write it into the file",
            param_hint="--spec",
        )
    return read(spec)


def on_command_line(ctx: typer.Context, name: str) -> bool:
    """Whether a parameter was given, even if with its default value."""
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def read(spec: Path) -> Any:
    """The JSON object in a file, with or without a byte-order mark. Raises: typer.BadParameter."""

    def refuse(why: str) -> typer.BadParameter:
        return typer.BadParameter(f"{spec} {why}", param_hint="--spec")

    raw = spec.read_bytes()
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in raw:
        raise refuse("is UTF-16 or binary: save it as UTF-8 (in PowerShell: Out-File -Encoding utf8)")
    try:
        found = json.loads(raw.decode("utf-8-sig"), object_pairs_hook=without_repeats)
    except UnicodeDecodeError as error:
        raise refuse(f"is not UTF-8 at byte {error.start}: save it as UTF-8") from error
    except json.JSONDecodeError as error:
        yaml = " (YAML is not read: write it as JSON)" if spec.suffix.lower() in (".yaml", ".yml") else ""
        where = f"line {error.lineno}, column {error.colno}"
        raise refuse(f"is not JSON: {error.msg} at {where}{yaml}") from error
    except RecursionError as error:
        raise refuse("is nested too deeply") from error
    except ValueError as error:
        raise refuse(f"cannot be sent: {error}") from error
    if not isinstance(found, dict):
        raise refuse('does not hold a JSON object, such as {"concepts": ["church"]}')
    if not fits_json(found):
        raise refuse("holds NaN or infinity, which JSON does not have")
    return found


def without_repeats(items: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of these fields. Raises: ValueError where one is repeated."""
    found: dict[str, Any] = {}
    for name, value in items:
        if name in found:
            raise ValueError(f"'{name}' is in it twice")
        found[name] = value
    return found
