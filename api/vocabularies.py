"""What models are known to draw, and what is noticed about a valid request before any GPU does: names that its model does not know."""

import json
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from api.deltas import directory
from api.invalid import closest
from api.services import Services
from core.specs import STYLE_FORMS, Concept, folded

MOST = 20


@lru_cache(maxsize=64)
def read(path: Path, _: float) -> dict[str, Any]:
    """A JSON file, read again only when its time has changed."""
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def of_folder(folder: Path | None) -> tuple[Path, float] | None:
    """A model's vocabulary and when it was changed; None where it has none."""
    path = folder / "vocabulary.json" if folder else None
    return None if path is None or not path.exists() else (path, path.stat().st_mtime)


@lru_cache(maxsize=64)
def known(path: Path, changed: float) -> tuple[list[str], frozenset[str]]:
    """A vocabulary's concepts, and its styles in every way to write them; the same, folded."""
    found = read(path, changed)
    words = [*found.get("concepts", []), *(form.format(style) for style in found.get("styles", []) for form in STYLE_FORMS)]
    return words, frozenset(map(folded, words))


def named(spec: BaseModel) -> Iterator[tuple[str, list[str]]]:
    """(field, name and synonyms) of what a spec asks to change or to keep; a word that is learned from images is no word of the model's."""
    for i, concept in enumerate(getattr(spec, "concepts", [])):
        if isinstance(concept, Concept) and not concept.images:
            yield f"concepts[{i}]", [concept.name, *concept.synonyms]
            if concept.target:
                yield f"concepts[{i}].target", [concept.target]
    for i, name in enumerate(getattr(spec, "preserve", [])):
        yield f"preserve[{i}]", [name]


def notes(services: Services, model: str, spec: BaseModel) -> list[str]:
    """One for each name that the model's vocabulary lacks; none where there is no vocabulary."""
    vocabulary = of_folder(directory(services.settings.models[model]))
    if vocabulary is None:
        return []
    words, forms = known(*vocabulary)
    missing = [(field, names[0]) for field, names in named(spec) if forms.isdisjoint(map(folded, names))]
    found = [
        f"{field}: '{name}' is not in the vocabulary of model '{model}'; {closest(name, words)}taken as written, it may not be judged"
        for field, name in missing[:MOST]
    ]
    return [*found, f"and {len(missing) - MOST} more"] if len(missing) > MOST else found
