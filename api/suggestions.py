"""'Did you mean …?': the name that a client probably meant.

Names of parameters may be close by their letters; a concept only the same word in another form, or an obvious
misspelling, as two concepts are easily similar by their letters.
"""

import difflib
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from expunge import core
from expunge.core.specs import Names, folded
from expunge.core.specs.names import bare

MIN_SIMILARITY = 0.8  # difflib's ratio of two parameters' names
MIN_LETTERS = 6  # letters from which one wrong letter makes a misspelling and not another word


def differ_by_one_slip(a: str, b: str) -> bool:
    """Whether one letter was left out, added, changed, or swapped with the next."""
    i = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    a, b = a[i:], b[i:]
    return a != b and (
        a[1:] == b[1:] or a[1:] == b or a == b[1:] or (a[:2] == b[:2][::-1] and a[2:] == b[2:])
    )


def normalize(name: str) -> str:
    return "".join(c for c in name.casefold() if c not in "_- ")


def closest_parameter(word: str, names: Sequence[str]) -> str | None:
    """The one of `names` that is meant: equal but for case and hyphens, one slip away, or similar."""
    by_normalized = {normalize(name): name for name in reversed(names)}
    mine = normalize(word[:100])
    if mine in by_normalized:
        return by_normalized[mine]
    if len(mine) > 3:
        for letters, name in by_normalized.items():
            if differ_by_one_slip(mine, letters):
                return name
    similar = difflib.get_close_matches(mine, by_normalized, n=1, cutoff=MIN_SIMILARITY)
    return by_normalized[similar[0]] if similar else None


@cache
def english_words() -> frozenset[str]:
    return frozenset((Path(core.__path__[0]) / "concepts" / "english.txt").read_text().split())


def is_misspelling(name: str, word: str) -> bool:
    """Whether a name is `word` with one slip, and not itself made of English words or proper names."""
    mine, right = name.split(), word.split()
    if len(bare(name)) < MIN_LETTERS or len(mine) != len(right):
        return False
    if not differ_by_one_slip(folded(name), folded(word)):
        return False
    wrong = [a for a, b in zip(mine, right, strict=True) if folded(a) != folded(b)]
    return all(a.islower() and a not in english_words() for a in wrong)


def closest_concept(name: str, words: Sequence[str], forms: Names) -> str | None:
    """The vocabulary's word that a name is a form or a misspelling of; `forms` are the forms of `words`."""
    return forms.find(name) or next((word for word in words if is_misspelling(name, word)), None)


def did_you_mean(name: str | None) -> str:
    """'did you mean …? ', or '' for None."""
    return f"did you mean '{name}'? " if name else ""


def choices(word: str, names: Sequence[str], intro: str) -> str:
    """A remedy that lists the names, after the one that is probably meant."""
    return f"{did_you_mean(closest_parameter(word, names))}{intro}: {', '.join(names)}"
