"""'Did you mean': of parameters by their letters, where they are really close; of concepts only the same word
in another form, or an obvious misspelling.
"""

import difflib
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from expunge import core
from expunge.core.specs import Names, folded
from expunge.core.specs.names import bare

CLOSE = 0.8  # difflib's ratio from which two parameters' names are near
LONG = 6  # letters from which one wrong letter makes a misspelling, not another word


def slip(a: str, b: str) -> bool:
    """Whether one letter was left out, put in, changed, or swapped with the next."""
    i = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    a, b = a[i:], b[i:]
    return a != b and (
        a[1:] == b[1:] or a[1:] == b or a == b[1:] or (a[:2] == b[:2][::-1] and a[2:] == b[2:])
    )


def flat(name: str) -> str:
    return "".join(c for c in name.casefold() if c not in "_- ")


def parameter(word: str, words: Sequence[str]) -> str | None:
    """The name among `words` that is meant: spelt the same but for case and hyphens, one slip away, or else
    close by its letters.
    """
    by_letters = {flat(name): name for name in reversed(words)}
    mine = flat(word[:100])
    one_off = next(
        (name for letters, name in by_letters.items() if len(mine) > 3 and slip(mine, letters)), None
    )
    near = difflib.get_close_matches(mine, by_letters, n=1, cutoff=CLOSE)
    return by_letters.get(mine) or one_off or (by_letters[near[0]] if near else None)


@cache
def english() -> frozenset[str]:
    return frozenset((Path(core.__path__[0]) / "concepts" / "english.txt").read_text().split())


def misspelt(name: str, word: str) -> bool:
    """Whether a name is `word` with one slip, and not itself made of English words or proper names."""
    mine, right = name.split(), word.split()
    if len(bare(name)) < LONG or len(mine) != len(right) or not slip(folded(name), folded(word)):
        return False
    wrong = [a for a, b in zip(mine, right, strict=True) if folded(a) != folded(b)]
    return all(a.islower() and a not in english() for a in wrong)


def concept(name: str, words: Sequence[str], forms: Names) -> str | None:
    """The vocabulary's word that a name is a form or a misspelling of; `forms` are the words' own. Never
    one that is only made of similar letters.
    """
    return forms.find(name) or next((word for word in words if misspelt(name, word)), None)


def ask(meant: str | None) -> str:
    """'did you mean …? ' where there is something to ask, else ''."""
    return f"did you mean '{meant}'? " if meant else ""


def choice(word: str, words: Sequence[str], what: str) -> str:
    return f"{ask(parameter(word, words))}{what}: {', '.join(words)}"
