"""Which words are forms of one another: case, spelling of compounds, plural, possessive, -ed and -ing."""

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
UNCHANGED = ("sheep", "fish", "deer", "moose", "bison", "shrimp", "aircraft")
SINGULAR = {plural: word for word, plural in IRREGULAR.items()}


def plain(word: str) -> str:
    """A name without case, spaces and hyphens: 'Ice-Cream' -> 'icecream'."""
    return "".join(c for c in word.casefold() if c not in " -_'’‐‑‒–—")


def bases(word: str) -> tuple[str, set[str]]:
    """The beginning of a name, and what its last word may be an inflection of, itself included:
    'Ice foxes' -> 'ice ', {foxes, foxe, fox}.
    """
    text = word.casefold().strip()
    for ending in ("'s", "’s", "s'", "s’"):
        if text.endswith(ending):
            text = text[: -len(ending)] + ("s" if ending.startswith("s") else "")
    head, space, last = text.rpartition(" ")
    found = {last, SINGULAR.get(last, last)}
    if last.endswith("ies") and len(last) > 4:
        found |= {last[:-3] + "y", last[:-1]}
    elif last.endswith("es") and len(last) > 3:
        found.add(last[:-1])
        if last[:-2].endswith(("s", "x", "z", "ch", "sh", "o")):
            found.add(last[:-2])
    elif last.endswith("s") and not last.endswith("ss") and len(last) > 3:
        found.add(last[:-1])
    return head + space, found


def forms(word: str) -> set[str]:
    """A name and its inflections, as `plain` writes them; of several words the last is inflected."""
    head, found = bases(word)
    return {plain(head + form) for form in found.union(*map(inflected, found))}


def inflected(base: str) -> set[str]:
    """Plural, past and participle of a word by the regular rules. Some are not words, which does no harm."""
    stem = base
    if base.endswith("e"):
        stem = base[:-1]
    elif base.endswith("y") and base[-2:-1] not in "aeiou":
        stem = base[:-1] + "i"
    double = base + base[-1:] if base[-1:] not in "aeiouwxys" and base[-2:-1] in "aeiou" else base
    ing = base[:-1] if base.endswith("e") else base
    found = {base + "s", stem + "ed", double + "ed", ing + "ing", double + "ing"}
    found.add(IRREGULAR.get(base, base + "es" if base.endswith(("s", "x", "z", "ch", "sh")) else base + "s"))
    if stem.endswith("i"):
        found.add(stem + "es")
    elif base.endswith("o"):
        found.add(base + "es")
    return found


def plural(name: str) -> str | None:
    """The name's plural by the regular rules and the list above; None where it seems to be one already."""
    head, space, last = name.rpartition(" ")
    low = last.casefold()
    if low in SINGULAR or (low.endswith("s") and not low.endswith(("ss", "us", "is"))):
        return None
    if low in UNCHANGED:
        many = last
    elif low in IRREGULAR:
        many = IRREGULAR[low]
    elif low.endswith("y") and low[-2:-1] not in "aeiou":
        many = last[:-1] + "ies"
    else:
        many = last + ("es" if low.endswith(("s", "x", "z", "ch", "sh")) else "s")
    return head + space + many


def variant_of(words: Iterable[str]) -> Callable[[str], bool]:
    """A function that tells whether a name is one of the words or an inflection of one."""
    words = list(words)
    written = {plain(word) for word in words}
    inflections = {form for word in words for form in forms(word)}
    return lambda name: plain(name) in inflections or not written.isdisjoint(forms(name))
