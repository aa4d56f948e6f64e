"""`python -m embedded`: the same as `expunge up`."""

import typer

from embedded.up import main

if __name__ == "__main__":
    typer.run(main)
