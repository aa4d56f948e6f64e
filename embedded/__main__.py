"""`python -m expunge.embedded`: the same as `expunge up`."""

import typer

from expunge.embedded.up import main

if __name__ == "__main__":
    typer.run(main)
