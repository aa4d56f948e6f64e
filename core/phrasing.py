"""What a job did to its concepts, in words: erased, edited, spread over attributes, or hidden."""

import re
from collections.abc import Sequence

from expunge.core.specs import Concept


def listing(words: Sequence[str]) -> str:
    """'a', 'a and b', 'a, b and c'."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def title(concepts: Sequence[Concept], hidden: bool = False) -> str:
    """A headline: 'Without church; dog → cat; doctor → female or male'; of a hide job 'Hidden: church'."""
    if hidden:
        return f"Hidden: {', '.join(c.name for c in concepts)}"
    gone = [c.name for c in concepts if not c.target and not c.attributes]
    changed = [
        f"{c.name} → {c.target or ' or '.join(a.replace('{}', '').strip() for a in c.attributes)}"
        for c in concepts
        if c.target or c.attributes
    ]
    text = "; ".join([*([f"without {', '.join(gone)}"] if gone else []), *changed])
    return text[:1].upper() + text[1:] if gone else text


def headline(concepts: Sequence[Concept], passed: bool | None, hidden: bool = False) -> str:
    """A report's headline, which claims a success only where it was judged to be one."""
    said = title(concepts, hidden)
    return (
        said
        if passed
        else "Report on "
        + re.sub(r"^(Without|Hidden:) ", lambda m: "erasing " if m[1] == "Without" else "hiding ", said)
    )


def as_asked(
    concepts: Sequence[Concept], words: Sequence[Concept], asked: Sequence[Concept]
) -> list[Concept]:
    """The concepts, learned words by the names that the request has for them; a part that is kept has
    none.
    """
    said = {
        word.name: given.model_copy(update={"images": [], "masks": []})
        for word, given in zip(words, asked, strict=True)
    }
    return [said.get(c.name, c) for c in concepts]


def infinitive(phrase: str) -> str:
    """'take church out of X', of a deed that was tried."""
    for verb in ("takes", "turns", "spreads", "hides"):
        phrase = re.sub(rf"(^|, | and ){verb} ", rf"\1{verb.removesuffix('s')} ", phrase)
    return phrase


def deed(concepts: Sequence[Concept], base: str, hidden: bool = False) -> str:
    """A verb phrase: 'takes church out of X', 'turns dog into cat in X', 'hides church in X'."""
    if hidden:
        return f"hides {listing([c.name for c in concepts])} in {base}"
    gone = [c.name for c in concepts if not c.target and not c.attributes]
    parts = [f"takes {', '.join(gone)} out of {base}"] if gone else []
    parts += [f"turns {c.name} into {c.target} in {base}" for c in concepts if c.target]
    parts += [
        f"spreads {c.name} over {listing([a.replace('{}', '').strip() for a in c.attributes])} in {base}"
        for c in concepts
        if c.attributes
    ]
    return listing(parts)
