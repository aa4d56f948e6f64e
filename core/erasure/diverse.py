"""Diversified prompts, an option of every trained method (the idea is Diversified Unlearning's, arXiv
2603.18767, known to us by its abstract; the wordings are ours).

While the method trains, every concept, its target and what is held are also asked for in scenes; and the
concept itself by a definition that does not name it, where there is one that the model's text encoder takes
for it.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TypeVar

from expunge.core.concepts import distances
from expunge.core.models import Denoiser
from expunge.core.models.vocabulary import CONCEPTS
from expunge.core.progress import Callback, ignore
from expunge.core.specs import Concept, EraseSpec

S = TypeVar("S", bound=EraseSpec)


@contextmanager
def diversified(model: Denoiser, request: S, callback: Callback = ignore) -> Iterator[S]:
    """The request as it is trained: inside, the model's vocabulary has more templates and each concept more
    names, where the method asks for diverse prompts; else both as they are.
    """
    if not is_asked(request):
        yield request
        return
    own = model.vocabulary
    concepts = [
        c.model_copy(update={"synonyms": [*c.synonyms, *described(model, c, callback)]})
        for c in request.concepts
    ]
    model.vocabulary = own.diverse()
    try:
        yield request.model_copy(update={"concepts": concepts})
    finally:
        model.vocabulary = own


def is_asked(request: EraseSpec) -> bool:
    """Of the method, or of the method around it."""
    method = request.method
    return any(getattr(each, "diverse_prompts", False) for each in (method, getattr(method, "method", None)))


@cache
def definitions() -> dict[str, str]:
    """Names of concepts -> a definition that does not name them (WordNet's)."""
    found: dict[str, str] = json.loads((CONCEPTS / "described.json").read_text())
    return found


def described(model: Denoiser, concept: Concept, callback: Callback = ignore) -> list[str]:
    """The concept's definition, if to the text encoder no other concept of the vocabulary is nearer to it."""
    text = definitions().get(concept.name.casefold())
    if text is None or concept.images:
        return []
    others = [name for name in model.vocabulary.concepts if not model.vocabulary.same(name, concept.name)]
    nearness = distances(model, text, [concept.name, *others], callback)
    return [text] if int(nearness.argmin()) == 0 else []
