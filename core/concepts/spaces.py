"""Concept spaces: the model's own vocabulary, common English nouns, CLIP's token vocabulary, or a list of the
user's.

A model without a vocabulary of its own has the English nouns for one; of artists, painters long dead.
"""

from collections.abc import Sequence

from expunge.core.models import Denoiser
from expunge.core.models.vocabulary import english

END = "</w>"


def clip_words(model: Denoiser) -> list[str]:
    """The whole words among the tokens of the model's own tokenizer: those that end a word, of three or more
    plain letters; in the order of their ids.

    AP's 'CLIP' vocabulary (Bui et al., NeurIPS 2024) likewise drops tokens with anything but letters.
    """
    ids = model.text.vocabulary_ids()
    words = (
        token.removesuffix(END)
        for token, _ in sorted(ids.items(), key=lambda item: item[1])
        if token.endswith(END)
    )
    return [w for w in words if len(w) > 2 and w.isascii() and w.isalpha()]


def words_of(model: Denoiser, space: str | Sequence[str], name: str) -> list[str]:
    """The words of a space: 'model', 'english', 'clip' or a list. `name` decides whether the model's
    concepts or its styles are meant.
    """
    match space:
        case "model":
            known = model.vocabulary
            return known.targets(name) if known.own or known.style(name) is not None else list(english())
        case "english":
            return list(english())
        case "clip":
            return clip_words(model)
        case _:
            return list(space)
