"""The parameters of the paraphrase."""

from typing import Literal

from pydantic import Field

from expunge.core.specs.attacks.attack import AttackSpec
from expunge.core.specs.fields import Text


class ParaphraseSpec(AttackSpec):
    """Other words for the concept: the texts of the request, else its synonyms and spellings."""

    citation = "no paper: prompts as users write them"
    needs = "prompts"

    name: Literal["paraphrase"] = "paraphrase"
    texts: list[Text] = Field(
        default=[], max_length=64, description="Prompts to try, as they are. Omitted: other spellings."
    )

    def drawn(self) -> int:
        return max(self.images, len(self.texts))
