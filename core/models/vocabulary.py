"""What a model is known to draw: concepts, styles and prompt templates."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path

from expunge.core.specs import STYLE_FORMS, folded

TEMPLATES = ("{}", "a {}", "a photo of a {}", "a picture of a {}", "an image of a {}")
SCENES = (
    "{} in a garden",
    "{} on a shelf",
    "{} under a tree",
    "{} behind a fence",
    "{} seen from afar",
    "{} with a bird",
)
"""Where a concept stands in diversified prompts: none of an evaluation's or an attack's."""
STYLE_OBJECTS = 16
BY = re.compile(r" (in the style of|by) \{\}$")
UNLISTED = re.compile(r"in the style of (.+)|in (.+) style", re.IGNORECASE)
CONCEPTS = Path(__file__).parents[1] / "concepts"
ARTIST = "in the style of {}"
ARTISTS_ASKED = ("a painting in the style of {}", "a painting by {}", "a picture by {}", "artwork by {}")
"""How prompts ask for an artist without naming an object."""


def article(text: str) -> str:
    """'a apple' -> 'an apple'."""
    words = text.split(" ")
    for i in range(len(words) - 1):
        if words[i] == "a" and words[i + 1][:1].lower() in "aeio":
            words[i] = "an"
    return " ".join(words)


def span(before: str, words: str) -> tuple[int, int]:
    """Where the words stand in article(before + words): their first character and the one behind their
    last.
    """
    return len(article(before + words[:1])) - 1, len(article(before + words))


def halves(template: str) -> tuple[str, str]:
    """A template's two halves around {}."""
    before, _, behind = template.partition("{}")
    return before, behind


@dataclass(frozen=True)
class Vocabulary:
    """Concepts and styles by the words a prompt uses for them; `subcategory` maps a concept to its Unicode
    subcategory.

    `style_template` is how a prompt names a style, after the object; `style_prompts` ask for a style alone,
    in its words at the end. `aliases` are other names of listed styles. `own`: the model comes with it;
    without one, common names stand in.
    """

    concepts: list[str]
    styles: list[str] = field(default_factory=list)
    templates: tuple[str, ...] = TEMPLATES
    subcategory: dict[str, str] = field(default_factory=dict)
    style_template: str = "in {} style"
    style_prompts: tuple[str, ...] = ()
    aliases: dict[str, str] = field(default_factory=dict)
    own: bool = True
    scenes: tuple[str, ...] = ()

    @cached_property
    def forms(self) -> dict[str, str]:
        """Each way to write a listed style, folded -> the style by the name that was used."""
        return {folded(f.format(s)): s for s in (*self.aliases, *self.styles) for f in STYLE_FORMS}

    def style(self, name: str) -> str | None:
        """The style that a name means ('noto', 'noto style', 'in noto style'), or None.

        'in the style of {artist}' and 'in {artist} style' are styles even when the vocabulary does not list
        the artist.
        """
        listed = self.forms.get(folded(name))
        if listed is not None:
            return listed
        found = UNLISTED.fullmatch(" ".join(name.split()))
        return (found[1] or found[2]) if found else None

    def key(self, name: str) -> tuple[str, bool]:
        """What two names of one concept have in common: 'noto' and 'in noto style' are one style, 'Van
        Gogh' and 'Vincent van Gogh' one artist.
        """
        style = self.style(name)
        if style is None:
            return folded(name), False
        listed = self.forms.get(folded(style), style)
        return folded(self.aliases.get(listed, listed)), True

    def same(self, a: str, b: str) -> bool:
        """Whether two names are one concept."""
        return self.key(a) == self.key(b)

    def objects(self, *, held_out: bool = False) -> list[str]:
        """A fixed choice of concepts for a style to be asked for around; held out: others, where the
        vocabulary is large enough.
        """
        stride = max(1, len(self.concepts) // STYLE_OBJECTS)
        return self.concepts[stride // 2 if held_out else 0 :: stride][:STYLE_OBJECTS]

    def things(self) -> list[str]:
        """What a style's prompts are about: its objects, and some of them in a scene."""
        objects = self.objects()
        return [*objects, *(scene.format(o) for scene, o in zip(self.scenes, objects, strict=False))]

    def diverse(self) -> "Vocabulary":
        """This vocabulary, its prompts with more templates: a concept in a scene."""
        scenes = tuple(f"a {scene}" for scene in SCENES)
        return replace(self, templates=(*self.templates, *scenes), scenes=SCENES)

    def styled(self, thing: str, style: str) -> str:
        """'a dog in noto style'; without a style 'a dog'."""
        return article(f"a {thing} {self.style_template.format(style)}" if style else f"a {thing}")

    def prompts(self, name: str) -> list[str]:
        """A concept in every template; a style around a fixed choice of the vocabulary's objects."""
        return self.replaced(name, name)

    def replaced(self, name: str, target: str) -> list[str]:
        """`prompts(name)`, one by one, with a target in its place; '' takes a style off its object, and
        leaves nothing of an object.
        """
        if self.style(name) is None:
            return [article(template.format(target)) if target else "" for template in self.templates]
        style = self.style(target) or target
        alone = [prompt.format(style) if style else BY.sub("", prompt) for prompt in self.style_prompts]
        return [*alone, *(self.styled(thing, style) for thing in self.things())]

    def around(self, name: str) -> list[tuple[str, str]]:
        """What stands before and behind the concept's or the style's own words in each of `prompts(name)`."""
        if self.style(name) is None:
            return [halves(template) for template in self.templates]
        styled = (f"a {thing} {self.style_template}" for thing in self.things())
        return [halves(article(template)) for template in (*self.style_prompts, *styled)]

    def places(self, name: str) -> list[tuple[int, int]]:
        """Where the concept's or the style's own words stand in each of `prompts(name)`, from one character
        to another.

        A word of the template that reads like the concept ("a photo of a photo") is not it.
        """
        words = self.style(name) or name
        return [span(before, words) for before, _ in self.around(name)]

    def without(self, names: Sequence[str]) -> "Vocabulary":
        """This vocabulary, with these concepts and styles not among its words: no search, hold or retain set
        that ranges over it has them.
        """
        gone = {self.key(name) for name in names}
        concepts = [c for c in self.concepts if self.key(c) not in gone]
        styles = [s for s in self.styles if self.key(s) not in gone]
        return replace(self, concepts=concepts, styles=styles)

    def targets(self, name: str) -> list[str]:
        """Names of the same sort as `name`, itself left out: styles for a style, concepts for a concept."""
        return [
            w for w in (self.concepts if self.style(name) is None else self.styles) if not self.same(w, name)
        ]


def load_vocabulary(folder: Path | None) -> Vocabulary:
    """`vocabulary.json` beside the model's weights; without one, common names that ship with the package:
    everyday things, and painters as styles.
    """
    if folder is None or not (folder / "vocabulary.json").exists():
        return common()
    data = json.loads((folder / "vocabulary.json").read_text())
    return Vocabulary(
        data["concepts"],
        data.get("styles", []),
        tuple(data.get("templates", TEMPLATES)),
        data.get("subcategory", {}),
        data.get("style_template", "in {} style"),
    )


@cache
def english() -> tuple[str, ...]:
    """3,597 common English nouns for things, beings and plants (WordNet's, as far as SCOWL counts them among
    common words).
    """
    return tuple((CONCEPTS / "english.txt").read_text().split())


@cache
def common() -> Vocabulary:
    """What a model is taken to know that says nothing of itself: those names of emoji that are English nouns,
    and painters long dead.
    """
    nouns, artists = set(english()), json.loads((CONCEPTS / "artists.json").read_text())["artists"]
    return Vocabulary(
        [name for name in json.loads((CONCEPTS / "common.json").read_text())["concepts"] if name in nouns],
        list(artists),
        style_template=ARTIST,
        style_prompts=ARTISTS_ASKED,
        aliases={alias: artist for artist, others in artists.items() for alias in others},
        own=False,
    )
