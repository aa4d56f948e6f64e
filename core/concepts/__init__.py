"""Concept spaces: the vocabularies that a search ranges over, and who lies near whom."""

from collections.abc import Sequence

from torch import Tensor

from expunge.core.concepts.embeddings import eos_states
from expunge.core.concepts.spaces import words_of
from expunge.core.errors import CoreError
from expunge.core.models import Denoiser, Vocabulary
from expunge.core.progress import Callback, ignore
from expunge.core.specs import Concept
from expunge.core.specs.inflections import variant_of

__all__ = [
    "attribute_phrases",
    "banned_words",
    "candidates",
    "distances",
    "excluding",
    "names_of",
    "nearest",
    "remaining",
    "resolve_target",
]


def names_of(concept: Concept) -> list[str]:
    """The words that mean the concept itself: its name and its synonyms."""
    return [concept.name, *concept.synonyms]


def attribute_phrases(concept: Concept, vocabulary: Vocabulary) -> list[str]:
    """What a prompt says for each attribute: a style is the concept in that style, {} is the concept,
    anything else stands for itself.
    """

    def phrase(attribute: str) -> str:
        style = vocabulary.style(attribute)
        if style is not None and vocabulary.style(concept.name) is None:
            return f"{concept.name} in {style} style"
        return attribute.replace("{}", concept.name)

    return [phrase(a) for a in concept.attributes]


def distances(model: Denoiser, name: str, others: Sequence[str], callback: Callback = ignore) -> Tensor:
    """L2 distance of the EOS states of "a photo of a {name}", (len(others),), in the base model's text
    encoder.

    AP and AGE's `search_closest_tokens` flattens all 77 states; the EOS state is the one that CLIP trains to
    mean the prompt.
    """
    with model.frozen():
        states = eos_states(model, [name, *others], callback)
    return (states[1:] - states[0]).square().sum(1).sqrt()


def banned_words(model: Denoiser, erased: Sequence[Concept]) -> list[str]:
    """All names of the concepts to be erased, and what a concept learned from pictures shows."""
    return [word for c in erased for word in (*names_of(c), *model.shows(c.name))]


def remaining(vocabulary: Vocabulary, words: Sequence[str], gone: Sequence[str]) -> list[str]:
    """The words that mean none of those that are gone: 'noto' and 'in noto style' are one style."""
    banned = {vocabulary.key(word) for word in gone}
    return [w for w in words if vocabulary.key(w) not in banned]


def excluding(model: Denoiser, words: Sequence[str], erased: Sequence[Concept]) -> list[str]:
    """Those of the words that name none of the concepts to be erased: no name or synonym, no inflection of
    one, not what learned words show.
    """
    gone = banned_words(model, erased)
    is_erased = variant_of(gone)
    return [w for w in dict.fromkeys(remaining(model.vocabulary, words, gone)) if not is_erased(w)]


def unerased(
    model: Denoiser, concept: Concept, erased: Sequence[Concept], space: str | Sequence[str] = "model"
) -> list[str]:
    """The words of the space that may stand for the concept."""
    return excluding(model, words_of(model, space, concept.name), [concept, *erased, *model.erased])


def candidates(
    model: Denoiser,
    concept: Concept,
    erased: Sequence[Concept],
    count: int,
    space: str | Sequence[str] = "model",
    callback: Callback = ignore,
) -> list[str]:
    """The `count` nearest words of the space, none of them to be erased.

    A style of which no other remains can only become no style at all: "".
    """
    if model.vocabulary.style(concept.name) is not None and not unerased(model, concept, erased, space):
        return [""]
    return nearest(model, concept, erased, space, callback)[:count]


def resolve_target(
    model: Denoiser, concept: Concept, erased: Sequence[Concept], default: str | None = None
) -> str:
    """What a concept becomes: its own target, else the method's default, else "" for an object and the
    nearest other style for a style.

    A style only taken off would come back wherever the model draws it unasked.
    """
    if concept.target is not None:
        return concept.target
    if default is not None or model.vocabulary.style(concept.name) is None:
        return default or ""
    return candidates(model, concept, erased, 1)[0]


def nearest(
    model: Denoiser,
    concept: Concept,
    erased: Sequence[Concept],
    space: str | Sequence[str] = "model",
    callback: Callback = ignore,
) -> list[str]:
    """All words of the space, the nearest to the concept first; never a concept to be erased, a synonym, nor
    an inflection of one ('churches').
    """
    words = unerased(model, concept, erased, space)
    if not words:
        raise CoreError(
            "empty_concept_space",
            f"every word of the concept space is a form of '{concept.name}' or itself to be erased: name"
            " others, or erase fewer concepts at once",
            field="method.concept_space",
        )
    order = distances(model, concept.name, words, callback).argsort(stable=True).tolist()
    return [words[i] for i in order]
