"""Concept spaces: the vocabularies that a search ranges over, and who lies near whom."""

from collections.abc import Sequence

from torch import Tensor

from core.models import StableDiffusion, Vocabulary
from core.models.vocabulary import article
from core.specs import Concept, same

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


def distances(model: StableDiffusion, name: str, others: Sequence[str]) -> Tensor:
    """L2 distance of the EOS states of "a photo of a {name}", (len(others),).

    AP and AGE's `search_closest_tokens` flattens all 77 states; the EOS state is the one that CLIP trains to mean the prompt.
    """
    states = model.encode_eos([article(f"a photo of a {w}") for w in (name, *others)])
    return (states[1:] - states[0]).square().sum(1).sqrt()


def candidates(
    model: StableDiffusion, concept: Concept, erased: Sequence[Concept], count: int, space: Sequence[str] | None = None
) -> list[str]:
    """The `count` nearest words of the space (or of the model's vocabulary), none of them to be erased."""
    return nearest(model, concept, erased, space)[:count]


def nearest(model: StableDiffusion, concept: Concept, erased: Sequence[Concept], space: Sequence[str] | None = None) -> list[str]:
    """All words of the space (or of the model's vocabulary) that are not to be erased, the nearest to the concept first."""
    erased = [*erased, *model.erased]
    banned = [w for c in erased for w in forbidden(c)] + [w for w in (model.vocabulary.style(c.name) for c in erased) if w]
    words = [w for w in (space if space is not None else model.vocabulary.targets(concept.name)) if not any(same(w, b) for b in banned)]
    order = distances(model, concept.name, words).argsort(stable=True).tolist()
    return [words[i] for i in order]
