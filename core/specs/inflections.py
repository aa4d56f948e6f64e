"""Which words are forms of one another: casing, spelling of compounds, plural, possessive, -ed and -ing."""

from collections.abc import Callable, Iterable

IRREGULAR = {
    "man": "men",
    "woman": "women",
    "child": "children",
    "person": "people",
    "mouse": "mice",
    "louse": "lice",
    "goose": "geese",
    "foot": "feet",
    "tooth": "teeth",
    "ox": "oxen",
    "die": "dice",
    "wolf": "wolves",
    "knife": "knives",
    "leaf": "leaves",
    "loaf": "loaves",
    "calf": "calves",
    "half": "halves",
    "scarf": "scarves",
    "thief": "thieves",
    "wife": "wives",
    "shelf": "shelves",
    "hoof": "hooves",
    "cactus": "cacti",
    "fungus": "fungi",
    "octopus": "octopi",
}
SINGULAR = {plural: word for word, plural in IRREGULAR.items()}


def plain(word: str) -> str:
    """'Ice-Cream' -> 'icecream': what stays of a name when case, spaces and hyphens do not count."""
    return "".join(c for c in word.casefold() if c not in " -_'’‐‑‒–—")


def bases(word: str) -> tuple[str, set[str]]:
    """What stands before the last word of a name, and what that word may be an inflection of, itself
    included: 'Ice foxes' -> 'ice ', {foxes, foxe, fox}.
    """
    text = word.casefold().strip()
    for ending in ("'s", "’s", "s'", "s’"):
        text = (
            text[: -len(ending)] + ("s" if ending.startswith("s") else "") if text.endswith(ending) else text
        )
    head, space, last = text.rpartition(" ")
    found = {last, SINGULAR.get(last, last)}
    if last.endswith("ies") and len(last) > 4:
        found |= {last[:-3] + "y", last[:-1]}
    elif last.endswith("es") and len(last) > 3:
        found |= {last[:-1]} | (
            {last[:-2]} if last[:-2].endswith(("s", "x", "z", "ch", "sh", "o")) else set()
        )
    elif last.endswith("s") and not last.endswith("ss") and len(last) > 3:
        found.add(last[:-1])
    return head + space, found


def forms(word: str) -> set[str]:
    """A name and its inflections, written plainly; of several words the last is inflected."""
    head, found = bases(word)
    return {plain(head + form) for form in found.union(*map(inflected, found))}


def inflected(base: str) -> set[str]:
    """Plural and possessive, past and participle of a word, by the regular rules; some are no words, which
    harms nothing.
    """
    stem = (
        base[:-1]
        if base.endswith("e")
        else base[:-1] + "i"
        if base.endswith("y") and base[-2:-1] not in "aeiou"
        else base
    )
    double = base + base[-1:] if base[-1:] not in "aeiouwxys" and base[-2:-1] in "aeiou" else base
    plural = IRREGULAR.get(base, base + "es" if base.endswith(("s", "x", "z", "ch", "sh")) else base + "s")
    more = {stem + "es"} if stem.endswith("i") else {base + "es"} if base.endswith("o") else set()
    ing = base[:-1] if base.endswith("e") else base
    return {plural, base + "s", stem + "ed", double + "ed", ing + "ing", double + "ing"} | more


def variant_of(words: Iterable[str]) -> Callable[[str], bool]:
    """A test whether a name is one of the words or an inflection of one."""
    words = list(words)
    known, bases = {form for word in words for form in forms(word)}, {plain(word) for word in words}
    return lambda name: plain(name) in known or not bases.isdisjoint(forms(name))
