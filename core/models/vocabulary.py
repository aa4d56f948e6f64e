"""What a model is known to draw: concepts, styles and prompt templates."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from core.specs import same

TEMPLATES = ("{}", "a {}", "a photo of a {}", "a picture of a {}", "an image of a {}")
COMMON = Path(__file__).parents[1] / "concepts" / "common.json"


def article(text: str) -> str:
    """'a apple' -> 'an apple'."""
    words = text.split(" ")
    for i in range(len(words) - 1):
        if words[i] == "a" and words[i + 1][:1].lower() in "aeio":
            words[i] = "an"
    return " ".join(words)


@dataclass(frozen=True)
class Vocabulary:
    """Concepts and styles by the words a prompt uses for them; `subcategory` maps a concept to its Unicode subcategory."""

    concepts: list[str]
    styles: list[str] = field(default_factory=list)
    templates: tuple[str, ...] = TEMPLATES
    subcategory: dict[str, str] = field(default_factory=dict)

    def style(self, name: str) -> str | None:
        """The style that a name means ('noto', 'noto style', 'in noto style'), or None."""
        return next(
            (s for s in self.styles if any(same(name, f.format(s)) for f in ("{}", "{} style", "in {} style", "in the style of {}"))), None
        )

    def prompts(self, name: str) -> list[str]:
        """A concept in every template; a style around a fixed choice of the vocabulary's objects."""
        style = self.style(name)
        if style is None:
            return [article(template.format(name)) for template in self.templates]
        objects = self.concepts[:: max(1, len(self.concepts) // 16)][:16]
        return [article(f"a {o} in {style} style") for o in objects]

    def targets(self, name: str) -> list[str]:
        """Names of the same sort as `name`, itself left out: styles for a style, concepts for a concept."""
        style = self.style(name)
        return [s for s in self.styles if s != style] if style is not None else [c for c in self.concepts if not same(c, name)]


def load_vocabulary(folder: Path | None) -> Vocabulary:
    """`vocabulary.json` beside the model's weights; without one, the common English nouns that ship with the package."""
    path = folder / "vocabulary.json" if folder is not None else COMMON
    data = json.loads((path if path.exists() else COMMON).read_text())
    return Vocabulary(data["concepts"], data.get("styles", []), tuple(data.get("templates", TEMPLATES)), data.get("subcategory", {}))
