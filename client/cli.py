"""The `expunge` command line. Results go to standard output, everything else to standard error."""

from importlib.metadata import version
from typing import Annotated

import typer

from expunge.client.commands import artifacts, erasure, jobs, measurement, recovery_keys
from expunge.client.plugins import Group

app = typer.Typer(cls=Group, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


def print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"expunge {version('expunge')}")
        raise typer.Exit


HELP = """Erase concepts from text-to-image models, with measured proof.

Exit codes: 0 success; 1 a job failed, or its verdict is not "passed"; 2 a request, file or address is \
wrong, or the service refused; 70 unexpected error; 130 Ctrl-C.
"""


@app.callback(help=HELP)
def main(
    _version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=print_version, help="Print the version.")
    ] = False,
    debug: Annotated[
        bool,
        typer.Option("--debug", help="Print the traceback of an unexpected error; as EXPUNGE_DEBUG=1 does."),
    ] = False,
) -> None:
    """The options that stand before a command."""


# In the order in which --help lists them; the commands of other rooms follow (plugins.py).
app.command()(erasure.erase)
app.command()(erasure.combine)
app.command()(erasure.hide)
app.command()(recovery_keys.recovery_key)
app.command()(recovery_keys.key_reads)
app.command()(recovery_keys.revoke_key)
app.command()(measurement.evaluate)
app.command()(measurement.compare)
app.command()(measurement.impact)
app.command()(measurement.inspect)
app.command()(jobs.wait)
app.command("jobs")(jobs.list_jobs)
app.command()(jobs.show)
app.command()(jobs.cancel)
app.command()(jobs.retry)
app.command()(jobs.download)
app.command()(jobs.queue)
app.command()(jobs.models)
app.command()(jobs.delete)
app.add_typer(artifacts.app, name="artifacts")
