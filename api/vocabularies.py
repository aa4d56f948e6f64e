"""What a model can draw, where it says so: the concepts and styles in its folder's vocabulary.json."""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from expunge.core.specs import STYLE_FORMS, Names, folded

FileVersion = tuple[Path, float]
"""A file and its modification time."""


class Words(NamedTuple):
    """A vocabulary's concepts, and its styles in every form they are written in."""

    all: list[str]
    folded: frozenset[str]
    forms: Names


def vocabulary_file(folder: Path | None) -> FileVersion | None:
    """The vocabulary in a model's folder; None where there is none."""
    path = folder / "vocabulary.json" if folder else None
    return None if path is None or not path.exists() else (path, path.stat().st_mtime)


@lru_cache(maxsize=64)
def read_vocabulary(file: FileVersion) -> dict[str, Any]:
    """The vocabulary as JSON, read again only when the file has changed."""
    found: dict[str, Any] = json.loads(file[0].read_text())
    return found


@lru_cache(maxsize=64)
def read_words(file: FileVersion) -> Words:
    found = read_vocabulary(file)
    styles = [form.format(style) for style in found.get("styles", []) for form in STYLE_FORMS]
    words = [*found.get("concepts", []), *styles]
    return Words(words, frozenset(map(folded, words)), Names(words))
