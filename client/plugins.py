"""The command group: commands of other rooms, found by entry point and loaded only when they are called; and
how errors end a command.
"""

import os
import sys
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

GROUP = "expunge.commands"
UNFORESEEN = 70  # exit code of what no command foresees: sysexits' EX_SOFTWARE
HELP = {
    "up": "Start the whole service on this machine.",
    "settings": "Print every setting of the service: variable, default, meaning.",
    "verify": "Check a bundle's digests and signature.",
    "key-pair": "Make a key pair for sealed recovery keys.",
    "unseal": "Open a sealed recovery key.",
    "check-model": "Say whether a model of your own can be used.",
    "fetch-judges": "Fetch the judges of such models ahead.",
}


def found() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}


def load(entry: EntryPoint) -> Any:
    """The command behind an entry point: a Typer app, a click command, or a function with typer's
    annotations.
    """
    target = entry.load()
    if isinstance(target, typer.Typer):
        return get_command(target)
    if not callable(target) or hasattr(target, "make_context"):
        return target
    app = typer.Typer(add_completion=False)
    app.command(entry.name)(target)
    return get_command(app)


class Group(TyperGroup):
    """Our own commands and the others'; `--help` lists the others without importing them."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [*super().list_commands(ctx), *(name for name in found() if name not in self.commands)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        own = super().get_command(ctx, cmd_name)
        if own is None and cmd_name in found():
            return TyperCommand(
                cmd_name, help=HELP.get(cmd_name, "Comes with an installed package."), callback=lambda: None
            )
        return own

    def resolve_command(self, ctx: Any, args: Any) -> tuple[str | None, Any, list[str]]:
        name = str(args[0])
        if name not in self.commands and (entry := found().get(name)):
            return name, load(entry), list(args[1:])
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """One line for what goes wrong, whatever it is; the traceback only with --debug or EXPUNGE_DEBUG."""
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort, typer.TyperException, BrokenPipeError):
            raise
        except Exception as error:
            if ctx.params.get("debug") or os.environ.get("EXPUNGE_DEBUG"):
                raise
            typer.echo(in_a_line(error), err=True)
            sys.exit(2 if isinstance(error, OSError | UnicodeError) else UNFORESEEN)


def in_a_line(error: Exception) -> str:
    """The error for whoever typed the command; the API key is never in it."""
    if isinstance(error, OSError) and error.strerror:
        said = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    elif isinstance(error, UnicodeError):
        said = (
            "a text is not UTF-8"
            f" ({error.reason if isinstance(error, UnicodeEncodeError | UnicodeDecodeError) else error})"
        )
    else:
        said = (
            f"unforeseen: {type(error).__name__}: {' '.join(str(error).split())[:500]} (EXPUNGE_DEBUG=1 shows"
            " where)"
        )
    key = os.environ.get("EXPUNGE_API_KEY", "").strip()
    return f"error: {said.replace(key, '…') if key else said}"
