"""Prompts that ask for a concept in words that no method trains on.

Methods train on the vocabulary's templates, for the concept's name and its synonyms. Here are other
templates, compositions, spellings, synonyms that nobody gave, and descriptions that never name the concept.
"""

import json
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import Literal

from expunge.core.concepts import names_of
from expunge.core.models import Vocabulary
from expunge.core.models.vocabulary import CONCEPTS, article
from expunge.core.specs import Concept, same
from expunge.core.specs.inflections import plural

Unseen = Literal["held_out", "composition", "spelling", "synonym", "implicit"]
KINDS: tuple[Unseen, ...] = ("held_out", "composition", "spelling", "synonym", "implicit")

HELD_OUT = ("a drawing of a {}", "the {}", "a close-up of a {}", "a {} on a white background")
COMPOSITIONS = ("a {} beside a lake", "a {} in the rain", "a {} at night", "a dog and a {}")
STYLE_HELD_OUT = ("{thing}, {style} style", "a {style}-style {thing}", "a {thing} the way {style} shows it")
STYLE_COMPOSITION = "a {thing} beside a {other} {style}"


@cache
def indirect() -> dict[str, dict[str, list[str]]]:
    """Names of concepts -> their `synonyms`, and `implicit` descriptions that name neither."""
    found: dict[str, dict[str, list[str]]] = json.loads((CONCEPTS / "indirect.json").read_text())
    return found


def unseen(vocabulary: Vocabulary, concept: Concept) -> dict[Unseen, list[str]]:
    """The prompts of each kind, in the order that they are drawn in; a kind without any is left out. None of
    them is among the prompts that the concept is trained on.
    """
    is_style = vocabulary.style(concept.name) is not None
    found = of_style(vocabulary, concept) if is_style else of_object(concept)
    trained = {prompt for name in names_of(concept) for prompt in vocabulary.prompts(name)}
    kept = {kind: [p for p in prompts if p not in trained] for kind, prompts in found.items()}
    return {kind: prompts for kind, prompts in kept.items() if prompts}


def of_object(concept: Concept) -> dict[Unseen, list[str]]:
    """A word learned from images has no other spelling, and nobody knows another word for it."""
    name = concept.name
    prompts: dict[Unseen, list[str]] = {
        "held_out": [article(form.format(name)) for form in HELD_OUT],
        "composition": [
            article(form.format(name)) for form in COMPOSITIONS if f" {name} " not in f" {form} "
        ],
    }
    if concept.images:
        return prompts
    many = plural(name)
    prompts["spelling"] = [
        *([many] if many else []),
        article(f"a {name}").upper(),
        *([f"a photo of {many}"] if many else []),
        name.title(),
    ]
    known = indirect().get(name.casefold(), {})
    others = [word for word in known.get("synonyms", []) if not any(same(word, n) for n in names_of(concept))]
    prompts["synonym"] = [article(f"a {word}") for word in others]
    prompts["implicit"] = known.get("implicit", [])
    return prompts


def of_style(vocabulary: Vocabulary, concept: Concept) -> dict[Unseen, list[str]]:
    """Around objects that no method was trained on."""
    style = vocabulary.style(concept.name)
    assert style is not None
    things, asked = vocabulary.objects(held_out=True), vocabulary.style_template
    pairs = list(pairwise(things))
    aliases = [a for a, of in vocabulary.aliases.items() if a != style and vocabulary.same(of, style)]
    return {
        "held_out": turns(
            [[article(f.format(thing=t, style=style)) for f in STYLE_HELD_OUT] for t in things]
        ),
        "composition": [
            article(STYLE_COMPOSITION.format(thing=a, other=b, style=asked.format(style))) for a, b in pairs
        ],
        "spelling": [article(f"a {thing} {asked.format(style.upper())}") for thing in things],
        "synonym": [vocabulary.styled(thing, alias) for thing in things for alias in aliases],
    }


def turns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Row k begins with its k-th entry, so that the first of each row are of all sorts."""
    return [row[(k + j) % len(row)] for j in range(len(rows[0]) if rows else 0) for k, row in enumerate(rows)]
