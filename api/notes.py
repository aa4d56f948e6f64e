"""Notes on a valid request: names that the model does not know, or that look like more than one name.

They are for people, and are made before any GPU is used.
"""

import json
import re
from collections.abc import Iterator

from pydantic import BaseModel

from expunge.api import suggestions
from expunge.api.services import Services
from expunge.api.vocabularies import Words, read_words, vocabulary_file
from expunge.core.sources import folder_of, parse
from expunge.core.specs import Concept, folded

MAX_NOTES = 20
COUNTS = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six"}
LIST = re.compile(r"\s*[,;|/、，；]\s*(?:and\s+|or\s+)?|\s+(?:and|or|&)\s+", re.IGNORECASE)
SYNTAX = re.compile(
    r"[(\[{]\s*(?P<held>[^()\[\]{}|:]+?)\s*(?::\s*[^()\[\]{}]*)?[)\]}]+[-+]*[\d.]*|(?P<sign>[^-+]+?)[-+]{2,}|(?P<colon>[^:]+?):{1,2}-?\d*\.?\d+|<[\w-]+:[^<>]*>|\{[^{}]*\|[^{}]*\}"
    r"|\[[^\[\]]*[:|][^\[\]]*\]|\(\(.*\)\)|__[\w/-]+__|(?P<before>\S.*?)\s+--[a-z].*"
)
INSIDE = re.compile(r"[(\[][^()\[\]]*:\s*-?\d*\.?\d+\s*[)\]]|<[\w-]+:[^<>]*>|\{[^{}]*\|[^{}]*\}")
"""How prompt tools write weights, alternatives and adapters: (church:1.3), [church], church++, church:1.3,
{church|dog}, <lora:x:1>, __animal__, church --no dog.
"""


def request_notes(services: Services, model: str, spec: BaseModel) -> list[str]:
    """All notes on a request, at most MAX_NOTES of them on names."""
    file = vocabulary_file(folder_of(services.settings.models[model]))
    words = read_words(file) if file is not None else None
    found: list[str] = []
    for field, names in names_in(spec):
        found += name_notes(model, field, names, words, suggest=len(found) < MAX_NOTES)
    if len(found) > MAX_NOTES:
        found = [*found[:MAX_NOTES], f"and {len(found) - MAX_NOTES} more"]
    return [*model_notes(services, model, spec), *found]


def names_in(spec: BaseModel) -> Iterator[tuple[str, list[str]]]:
    """(field, name and synonyms) of each concept that a spec names as text.

    Concepts that are learned from images are left out: their names are not words of the model.
    """
    # The concepts to erase, and their targets
    concepts = [(f"concepts[{i}]", c) for i, c in enumerate(getattr(spec, "concepts", []))]
    if one := getattr(spec, "concept", None):
        concepts.append(("concept", one))
    for field, concept in concepts:
        if isinstance(concept, Concept) and not concept.images:
            yield field, [concept.name, *concept.synonyms]
        if isinstance(concept, Concept) and concept.target:
            yield f"{field}.target", [concept.target]

    # The concepts to preserve
    method, evaluation = getattr(spec, "method", None), getattr(spec, "evaluation", None)
    for field, names in (
        ("preserve", getattr(spec, "preserve", [])),
        ("method.preserve", getattr(method, "preserve", [])),
        ("evaluation.preserved_concepts", getattr(evaluation, "preserved_concepts", None) or []),
    ):
        for i, name in enumerate(names):
            yield f"{field}[{i}]", [name]


def name_notes(model: str, field: str, names: list[str], words: Words | None, *, suggest: bool) -> list[str]:
    """Notes on one concept's name and synonyms; none where the vocabulary has one of them."""
    if words is not None and not words.folded.isdisjoint(map(folded, names)):
        return []
    found = [note for name in names if (note := syntax_note(field, name)) is not None]
    if words is not None:
        meant = (
            suggestions.closest_concept(names[0], words.all, words.forms) if suggest and not found else None
        )
        found.append(
            f"{field}: '{names[0]}' is not in the vocabulary of model '{model}';"
            f" {suggestions.did_you_mean(meant)}it is used as written, and may not be judged"
        )
    return found


def syntax_note(field: str, name: str) -> str | None:
    """A note on a name that looks like prompt syntax, or like several concepts; None for any other."""
    whole = SYNTAX.fullmatch(name)
    if whole or INSIDE.search(name):
        word = next((word for word in whole.groupdict().values() if word), None) if whole else None
        instead = f"write '{word}' for the concept alone" if word else "write the concept's words alone"
        return (
            f"{field}: '{name}' is used as written, as prompt syntax such as weights is not parsed: {instead}"
        )
    parts = [part for part in LIST.split(name) if part]
    if len(parts) > 1:
        several = json.dumps(parts, ensure_ascii=False)
        count = COUNTS.get(len(parts), len(parts))
        return f"{field}: '{name}' is one concept; did you mean {count}? Then write {several}"
    return None


def model_notes(services: Services, model: str, spec: BaseModel) -> list[str]:
    """A note that the method's defaults were measured on the bundled model only, where it is another."""
    if not hasattr(spec, "method") or parse(services.settings.models[model]).kind == "bundled":
        return []
    advice = "look at the report"
    if hasattr(spec.method, "steps"):
        advice = "start with few steps, look at the report, then raise steps or learning_rate"
    return [
        f"the defaults of method '{spec.method.name}' were only measured on the bundled 64-pixel model, and"
        f" are untested on '{model}': {advice}"
    ]
