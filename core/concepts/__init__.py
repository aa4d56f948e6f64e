"""Concept spaces: the vocabularies that a search ranges over, and who lies near whom."""

from collections.abc import Sequence

from torch import Tensor

from core.concepts.embeddings import eos_states
from core.concepts.inflections import variant_of
from core.concepts.spaces import words_of
from core.errors import CoreError
from core.models import StableDiffusion, Vocabulary
from core.progress import Callback, ignore
from core.specs import Concept

__all__ = ["attribute_phrases", "candidates", "distances", "forbidden", "nearest"]


def forbidden(concept: Concept) -> list[str]:
    """The words that may never stand for anything but the concept itself: its name and its synonyms."""
    return [concept.name, *concept.synonyms]


def attribute_phrases(concept: Concept, vocabulary: Vocabulary) -> list[str]:
    """What a prompt says for each attribute: a style is the concept in that style, {} is the concept, anything else stands for itself."""

    def phrase(attribute: str) -> str:
        style = vocabulary.style(attribute)
        if style is not None and vocabulary.style(concept.name) is None:
            return f"{concept.name} in {style} style"
        return attribute.replace("{}", concept.name)

    return [phrase(a) for a in concept.attributes]


def distances(model: StableDiffusion, name: str, others: Sequence[str], callback: Callback = ignore) -> Tensor:
    """L2 distance of the EOS states of "a photo of a {name}", (len(others),), in the base model's text encoder.

    AP and AGE's `search_closest_tokens` flattens all 77 states; the EOS state is the one that CLIP trains to mean the prompt.
    """
    with model.frozen():
        states = eos_states(model, [name, *others], callback)
    return (states[1:] - states[0]).square().sum(1).sqrt()


def candidates(
    model: StableDiffusion,
    concept: Concept,
    erased: Sequence[Concept],
    count: int,
    space: str | Sequence[str] = "model",
    callback: Callback = ignore,
) -> list[str]:
    """The `count` nearest words of the space, none of them to be erased."""
    return nearest(model, concept, erased, space, callback)[:count]


def nearest(
    model: StableDiffusion, concept: Concept, erased: Sequence[Concept], space: str | Sequence[str] = "model", callback: Callback = ignore
) -> list[str]:
    """All words of the space, the nearest to the concept first; never a concept to be erased, a synonym, nor an inflection of one ('churches')."""
    erased = [*erased, *model.erased]
    banned = [w for c in erased for w in (*forbidden(c), *model.shows(c.name))] + [
        w for w in (model.vocabulary.style(c.name) for c in erased) if w
    ]
    is_erased = variant_of(banned)
    words = [w for w in dict.fromkeys(words_of(model, space, concept.name)) if not is_erased(w)]
    if not words:
        raise CoreError(
            "empty_concept_space",
            f"every word of the concept space is a form of '{concept.name}': name others",
            field="method.concept_space",
        )
    order = distances(model, concept.name, words, callback).argsort(stable=True).tolist()
    return [words[i] for i in order]
