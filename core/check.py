"""`expunge check-model SOURCE`: what a source is, whether it loads, and the digest to pin it by.

Loads nothing, needs no torch.
"""

import sys
from typing import Annotated

import typer

from expunge.core import layouts, sources
from expunge.core.errors import CoreError


def main(
    source: Annotated[
        str,
        typer.Argument(
            help="What EXPUNGE_MODELS would name: a folder, 'bundled:emoji', or organisation/name@revision."
        ),
    ],
) -> None:
    """Look at a model as EXPUNGE_MODELS would name it; a hub model must be in this host's cache. A checkpoint
    in one file is laid out in EXPUNGE_CACHE_DIR.

    Exit code 1 when it cannot be used.
    """
    try:
        folder = sources.folder_of(source)
        found = sources.parse(source)
        if folder is None and found.kind == "hub":
            raise sources.not_fetched(found, f"'{found.name}'")
        layout = layouts.look(folder) if found.kind == "hub" and folder else sources.fetch(source)
    except CoreError as error:
        typer.secho(f"✗ {error.message}", fg="red", err=True)
        sys.exit(1)
    variants = ", ".join(f"{part}: {variant}" for part, variant in layout.variants.items() if variant)
    typer.secho(f"✓ {layout.architecture}{f' (variants: {variants})' if variants else ''}", fg="green")
    typer.echo(f"sha256:{sources.digest_of(layout)}")


if __name__ == "__main__":
    typer.run(main)
