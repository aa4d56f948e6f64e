"""Names: cleaned of invisible characters, and compared in whatever form they are written.

Each is folded once, so that comparing many names takes time in proportion to their number.
"""

import re
import unicodedata
from collections.abc import Iterable

from expunge.core.specs.inflections import bases, plain

MAX_TEXT = 200
# Characters as they are sent: putting combining marks in order takes the square of their number
MAX_RAW = 10 * MAX_TEXT
STYLE_FORMS = ("{}", "{} style", "in {} style", "in the style of {}")
"""The ways to name a style that a model's vocabulary lists."""

STYLED = re.compile(
    r"(?:in )?(?:the )?style of (?P<of>.+)|(?:in )?(?:the )?(?P<whose>.+?)(?:'s|’s)?[ -]style"
)
ARTICLE = re.compile(r"(?:an?|the) (?=\S)")
OWN_PLURALS = {"glasses", "arms", "goods", "customs", "woods"}
"""Plurals that name another thing than their singular."""

PICTOGRAM = (
    r"[\u00a9\u00ae\u203c\u2049\u2100-\u27ff\u2900-\u2bff\u3030\u303d\u3297\u3299\U0001f000-\U0001faff]"
    r"[\ufe0f\U0001f3fb-\U0001f3ff]?"
)
FLAG = r"\U0001f3f4[\U000e0020-\U000e007e]+\U000e007f"
JOINING = (  # scripts in which a joiner between two letters is spelling
    r"[\u0620-\u08ff\u0900-\u0dff\u1000-\u109f\u1780-\u18aa]"
)
UNSEEN = re.compile(
    rf"({FLAG}|[0-9#*]\ufe0f?\u20e3|{PICTOGRAM}(?:\u200d{PICTOGRAM})*|(?<={JOINING})[\u200c\u200d](?={JOINING}))"
    r"|[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2060-\u2065\u206a-\u206f\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffc"
    r"\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
"""Emoji sequences and joined letters, as group 1, or one character that cannot be seen."""
OVERRIDES = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


def clean_text(value: str) -> str:
    """A text in NFC, trimmed, with single spaces, and without invisible characters outside emoji.

    Raises: ValueError for an empty or too long text, line breaks, control characters and direction overrides.
    """
    if value.isascii():
        text = value.strip()
    else:
        seen = UNSEEN.sub(lambda found: found[1] or "", value).strip()
        text = unicodedata.normalize("NFC", seen) if len(seen) <= MAX_RAW else seen
    if not text:
        what = "contains no visible character" if value.strip() else "must not be empty"
        raise ValueError(f"{what}: give the words a prompt would use, for example 'church'")
    if len(text) > MAX_TEXT:
        raise ValueError(
            f"has {len(text)} characters, at most {MAX_TEXT} are allowed: name the concept, not a whole text"
        )
    if not text.isprintable():
        for c in text:
            if c in "\n\r\u2028\u2029":
                raise ValueError("contains a line break: give each name as a text of its own")
            if unicodedata.category(c) in ("Cc", "Cs", "Co", "Cn") or c in OVERRIDES:
                raise ValueError(f"contains the control character U+{ord(c):04X}: remove it")
    return " ".join(text.split())


def folded(name: str) -> str:
    """A name without its case and spacing."""
    return " ".join(name.casefold().split())


def same(a: str, b: str) -> bool:
    """Whether two names differ in case and spacing at most."""
    return folded(a) == folded(b)


def bare(name: str) -> str:
    """A folded name without what does not tell concepts apart: compatibility forms, an article, and the words
    that say that it is a style.
    """
    text = folded(unicodedata.normalize("NFKC", name).replace("\ufe0f", ""))
    styled = STYLED.fullmatch(text)
    text = (styled["of"] or styled["whose"]) if styled else text
    return ARTICLE.sub("", text, count=1) if ARTICLE.match(text) else text


def spelt(name: str) -> str:
    """What all spellings of a name have in common: case, spaces, hyphens, articles and the ways to name a
    style do not count.
    """
    return plain(bare(name)) or name


def keys(name: str) -> set[str]:
    """The keys of a name's forms, singular and plural: two names are one concept where they share a key."""
    text = bare(name)
    head, found = bases(text)
    if text in OWN_PLURALS or not plain(text):
        return {plain(text) or name}
    return {plain(head + form) for form in found} - {""}


class Names:
    """A set of names in which every form of a name finds it: 'Churches' finds 'church'."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self.by_key: dict[str, str] = {}
        for name in names:
            self.add(name)

    def find(self, name: str) -> str | None:
        """The name that this is a form of, as it was added; None where there is none."""
        return next((self.by_key[key] for key in keys(name) if key in self.by_key), None)

    def add(self, name: str) -> str | None:
        """Add a name. Returns the name of the same concept that was there before, or None."""
        own = keys(name)
        before = next((self.by_key[key] for key in own if key in self.by_key), None)
        for key in own:
            self.by_key.setdefault(key, name)
        return before
