"""README and docs as tests see them: their fenced blocks, and the comment that says why one is not run."""

import re
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
COMMAND = """\
import importlib, sys, tomllib, typer
commands = tomllib.loads(open({project!r}).read())["project"]["entry-points"]["expunge.commands"]
if sys.argv[1] in commands:
    module, _, name = commands[sys.argv.pop(1)].partition(":")
    typer.run(getattr(importlib.import_module(module), name))
else:
    from expunge.client.cli import app
    app()
"""
BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>.*?) -->\n+)?^```(?P<language>\w*)\n(?P<text>.*?)^```", re.DOTALL | re.MULTILINE
)


@dataclass(frozen=True)
class Block:
    """A fenced block; `why`: the reason above it that it is not run, `source`: the file above it that it is
    quoted from.
    """

    page: str
    language: str
    text: str
    why: str | None
    source: str | None


def blocks(page: str) -> list[Block]:
    """Every fenced block of a page."""
    found = []
    for m in BLOCK.finditer((ROOT / page).read_text()):
        kind, _, rest = (m["mark"] or "").partition(": ")
        why, source = (rest if kind == name else None for name in ("not run", "quoted from"))
        found.append(Block(page, m["language"], m["text"], why, source))
    return found


def run(page: str, language: str) -> list[str]:
    """The texts of the blocks that are to be run."""
    return [b.text for b in blocks(page) if b.language == language and b.why is None and b.source is None]


def expunge(folder: Path) -> Path:
    """A folder for PATH, in which `expunge` is this tree's."""
    script = folder / "expunge"
    folder.mkdir()
    script.write_text(f"#!{sys.executable}\n" + COMMAND.format(project=str(ROOT / "pyproject.toml")))
    script.chmod(0o755)
    return folder
