"""`expunge artifacts list` and `delete`: uploaded images, deltas and prompt sets."""

from typing import Annotated

import typer

from expunge.client import views
from expunge.client.options import Json, Url
from expunge.client.terminal import out, print_json, service

app = typer.Typer(no_args_is_help=True, help="List and delete uploaded images, deltas and prompt sets.")


@app.command("list")
def list_uploads(url: Url = None, as_json: Json = False) -> None:
    """List uploads, newest first."""
    with service(url) as client:
        uploads = list(client.uploads())
    if as_json:
        print_json(uploads)
    else:
        out.print(views.uploads_table(uploads))


@app.command("delete")
def delete_artifacts(
    ids: Annotated[list[str], typer.Argument(metavar="ARTIFACT...", help="Artifact ids.")], url: Url = None
) -> None:
    """Delete uploads, or files of jobs, for good; refused while a job needs them."""
    with service(url) as client:
        for id_ in ids:
            client.delete(client.artifact(id_))
            out.print(f"deleted {id_}", highlight=False)
