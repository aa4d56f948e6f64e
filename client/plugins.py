"""The command group: other rooms' commands, imported only when they are called; and how errors end one."""

import os
import sys
from importlib.metadata import EntryPoint, entry_points
from typing import Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from expunge import extras
from expunge.extras import MissingExtra

GROUP = "expunge.commands"
UNEXPECTED = 70  # exit code of an unexpected error: sysexits' EX_SOFTWARE


class Plugin(NamedTuple):
    """What is known of a command before it is imported."""

    help: str
    extra: str = ""
    modules: tuple[str, ...] = ()  # which are there where the extra is installed

    def missing(self) -> list[str]:
        return extras.missing(self.modules)

    def listed(self) -> str:
        """Its line in `--help`."""
        return f"{self.help} Needs: pip install 'expunge\\[{self.extra}]'" if self.missing() else self.help


PLUGINS = {
    "up": Plugin("Start the whole service on this machine.", "embedded", ("fastapi", "psutil", "torch")),
    "settings": Plugin(
        "Print every setting of the service: variable, default, meaning.", "service", ("sqlalchemy",)
    ),
    "verify": Plugin("Check a bundle's digests and signature."),
    "key-pair": Plugin("Make a key pair for sealed recovery keys."),
    "unseal": Plugin("Open a sealed recovery key."),
    "check-model": Plugin("Say whether a model of your own can be used.", "science", ("diffusers", "torch")),
    "pack-judge": Plugin("Pack a judge of your own for its upload.", "science", ("safetensors",)),
    "fetch-judges": Plugin("Fetch the judges of such models ahead.", "science", ("open_clip", "torch")),
}
OTHER = Plugin("Comes with an installed package.")


def installed() -> dict[str, EntryPoint]:
    """The entry point of each command that an installed package adds."""
    return {entry.name: entry for entry in entry_points(group=GROUP)}


def load(entry: EntryPoint) -> Any:
    """Import the command behind an entry point: a Typer app, a click command or an annotated function.

    Raises: MissingExtra where its extra is not installed.
    """
    plugin = PLUGINS.get(entry.name, OTHER)
    extras.require(f"'expunge {entry.name}'", plugin.extra, *plugin.modules)
    target = entry.load()
    if isinstance(target, typer.Typer):
        return get_command(target)
    if not callable(target) or hasattr(target, "make_context"):
        return target
    app = typer.Typer(add_completion=False)
    app.command(entry.name)(target)
    return get_command(app)


class Group(TyperGroup):
    """The client's commands and those of other rooms, which `--help` lists without importing them."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [*super().list_commands(ctx), *(name for name in installed() if name not in self.commands)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        own = super().get_command(ctx, cmd_name)
        if own is None and cmd_name in installed():
            return TyperCommand(cmd_name, help=PLUGINS.get(cmd_name, OTHER).listed(), callback=lambda: None)
        return own

    def resolve_command(self, ctx: Any, args: Any) -> tuple[str | None, Any, list[str]]:
        name = str(args[0])
        if name not in self.commands and (entry := installed().get(name)):
            return name, load(entry), list(args[1:])
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Print any error on one line; the traceback only with --debug or EXPUNGE_DEBUG."""
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort, typer.TyperException, BrokenPipeError):
            raise
        except Exception as error:
            if ctx.params.get("debug") or os.environ.get("EXPUNGE_DEBUG"):
                raise
            typer.echo(error_line(error), err=True)
            sys.exit(2 if isinstance(error, OSError | UnicodeError | MissingExtra) else UNEXPECTED)


def error_line(error: Exception) -> str:
    """The error for whoever typed the command, without the API key."""
    if isinstance(error, MissingExtra):
        message = str(error)
    elif isinstance(error, OSError) and error.strerror:
        message = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    elif isinstance(error, UnicodeEncodeError | UnicodeDecodeError):
        message = f"a text is not UTF-8 ({error.reason})"
    elif isinstance(error, UnicodeError):
        message = f"a text is not UTF-8 ({error})"
    else:
        told = " ".join(str(error).split())[:500]
        message = f"unexpected {type(error).__name__}: {told} (EXPUNGE_DEBUG=1 shows where)"
    key = os.environ.get("EXPUNGE_API_KEY", "").strip()
    return f"error: {message.replace(key, '…') if key else message}"
