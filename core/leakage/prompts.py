"""Prompts that no method was trained on, in pairs: with the concept, and with something else in its place."""

from collections.abc import Sequence

from expunge.core.models import Vocabulary
from expunge.core.models.vocabulary import article

HELD_OUT = ("the {}", "one {}", "a drawing of a {}")


def held_out_pairs(vocabulary: Vocabulary, word: str, other: str) -> list[tuple[str, str]]:
    """Prompts of a concept or a style that no method reads while it trains, each with the same prompt of
    another one; "": with no style, or of an object, the empty prompt.

    A style is asked for around objects that training leaves out or, among so few that there are none, in
    other words.
    """
    style, seen = vocabulary.style(word), vocabulary.prompts(word)
    if style is None:
        return [(article(p.format(word)), article(p.format(other)) if other else "") for p in HELD_OUT]
    instead = (vocabulary.style(other) or other) if other else ""
    objects = [o for o in vocabulary.concepts if vocabulary.styled(o, style) not in seen]
    if objects:
        return [(vocabulary.styled(o, style), vocabulary.styled(o, instead)) for o in objects]
    replaced = vocabulary.replaced(word, other)
    return [(f"a picture of {a}", f"a picture of {b}") for a, b in zip(seen, replaced, strict=True)]


def held_out(vocabulary: Vocabulary, word: str) -> list[str]:
    """The concept's own prompts of `held_out_pairs`."""
    return [prompt for prompt, _ in held_out_pairs(vocabulary, word, "")]


def pairs(
    vocabulary: Vocabulary, words: Sequence[str], others: Sequence[str], count: int
) -> list[tuple[str, str]]:
    """`count` pairs of held-out prompts: words, others and prompts take turns, so that as many pairs as there
    are combinations are all different.
    """
    found = []
    for i in range(count):
        turn, word = divmod(i, len(words))
        again, other = divmod(turn, len(others))
        each = held_out_pairs(vocabulary, words[word], others[other])
        found.append(each[(other + again) % len(each)])
    return found
