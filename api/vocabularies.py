"""What models are known to draw, and what is noticed about a valid request before any GPU does: names that
its model does not know, or that are more than names.
"""

import json
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel

from expunge.api import suggestions
from expunge.api.services import Services
from expunge.core.sources import folder_of, parse
from expunge.core.specs import STYLE_FORMS, Concept, Names, folded

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


class Words(NamedTuple):
    """A vocabulary's concepts, and its styles in every way to write them; the same folded, and in all their
    forms.
    """

    all: list[str]
    folded: frozenset[str]
    forms: Names


@lru_cache(maxsize=64)
def known(path: Path, changed: float) -> Words:
    found = read(path, changed)
    words = [
        *found.get("concepts", []),
        *(form.format(style) for style in found.get("styles", []) for form in STYLE_FORMS),
    ]
    return Words(words, frozenset(map(folded, words)), Names(words))


def named(spec: BaseModel) -> Iterator[tuple[str, list[str]]]:
    """(field, name and synonyms) of what a spec asks to change, to become, or to keep; a word that is learned
    from images is no word of the model's.
    """
    one = getattr(spec, "concept", None)
    for at, concept in [
        *((f"concepts[{i}]", c) for i, c in enumerate(getattr(spec, "concepts", []))),
        *([("concept", one)] if one else []),
    ]:
        if isinstance(concept, Concept) and not concept.images:
            yield at, [concept.name, *concept.synonyms]
        if isinstance(concept, Concept) and concept.target:
            yield f"{at}.target", [concept.target]
    method, evaluation = getattr(spec, "method", None), getattr(spec, "evaluation", None)
    for at, names in (
        ("preserve", getattr(spec, "preserve", [])),
        ("method.preserve", getattr(method, "preserve", [])),
        ("evaluation.preserved_concepts", getattr(evaluation, "preserved_concepts", None) or []),
    ):
        for i, name in enumerate(names):
            yield f"{at}[{i}]", [name]


LIST = re.compile(r"\s*[,;|/、，；]\s*(?:and\s+|or\s+)?|\s+(?:and|or|&)\s+", re.IGNORECASE)
SYNTAX = re.compile(
    r"[(\[{]\s*(?P<held>[^()\[\]{}|:]+?)\s*(?::\s*[^()\[\]{}]*)?[)\]}]+[-+]*[\d.]*|(?P<sign>[^-+]+?)[-+]{2,}|(?P<colon>[^:]+?):{1,2}-?\d*\.?\d+|<[\w-]+:[^<>]*>|\{[^{}]*\|[^{}]*\}"
    r"|\[[^\[\]]*[:|][^\[\]]*\]|\(\(.*\)\)|__[\w/-]+__|(?P<before>\S.*?)\s+--[a-z].*"
)
INSIDE = re.compile(r"[(\[][^()\[\]]*:\s*-?\d*\.?\d+\s*[)\]]|<[\w-]+:[^<>]*>|\{[^{}]*\|[^{}]*\}")
"""How tools for prompts write weights, alternatives and adapters: (church:1.3), [church], church++,
church:1.3, {church|dog}, <lora:x:1>, __animal__, church --no dog.
"""


def misread(field: str, name: str) -> str | None:
    """A note where a name looks as though it were more than words: several concepts, or the syntax of a
    prompt.
    """
    whole = SYNTAX.fullmatch(name)
    if whole or INSIDE.search(name):
        word = next((word for word in whole.groupdict().values() if word), None) if whole else None
        instead = f"write '{word}' for the concept alone" if word else "write the concept's words alone"
        return (
            f"{field}: '{name}' is taken letter by letter, as weights and other syntax of prompts are not"
            f" read: {instead}"
        )
    parts = [part for part in LIST.split(name) if part]
    if len(parts) > 1:
        several = json.dumps(parts, ensure_ascii=False)
        return (
            f"{field}: '{name}' is one concept; did you mean {COUNT.get(len(parts), len(parts))}? Then write"
            f" {several}"
        )
    return None


COUNT = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six"}


def untried(services: Services, model: str, spec: BaseModel) -> list[str]:
    """What a method's defaults are worth on a model that is not the bundled one."""
    if not hasattr(spec, "method") or parse(services.settings.models[model]).kind == "bundled":
        return []
    return [
        (
            f"the defaults of method '{spec.method.name}' were measured on the bundled 64-pixel model alone,"
            f" and are untried on '{model}': start from few steps, look at the report, then raise steps or"
            " learning_rate"
            if hasattr(spec.method, "steps")
            else (
                f"the defaults of method '{spec.method.name}' were measured on the bundled 64-pixel model"
                f" alone, and are untried on '{model}': look at the report"
            )
        )
    ]


def notes(services: Services, model: str, spec: BaseModel) -> list[str]:
    """For people: what is untried on the model; each name that looks like several, or like a prompt's syntax,
    and each that the model's vocabulary lacks, where it has one.
    """
    file = of_folder(folder_of(services.settings.models[model]))
    words = known(*file) if file is not None else None
    found: list[str] = []
    for field, names in named(spec):
        known_here = words is not None and not words.folded.isdisjoint(map(folded, names))
        odd = [] if known_here else [note for name in names if (note := misread(field, name)) is not None]
        found += odd
        if words is not None and not known_here:
            meant = (
                ""
                if odd or len(found) >= MOST
                else suggestions.ask(suggestions.concept(names[0], words.all, words.forms))
            )
            found.append(
                f"{field}: '{names[0]}' is not in the vocabulary of model '{model}'; {meant}taken as written,"
                " it may not be judged"
            )
    found = [*found[:MOST], f"and {len(found) - MOST} more"] if len(found) > MOST else found
    return [*untried(services, model, spec), *found]
