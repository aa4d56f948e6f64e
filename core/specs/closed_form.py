"""What the closed forms of UCE and RECE share."""

from typing import Literal

from pydantic import Field

from expunge.core.specs.fields import Text, TextOrEmpty
from expunge.core.specs.method import MethodSpec


class UnifiedEditSpec(MethodSpec):
    """What UCE and RECE share."""

    guide: TextOrEmpty | None = Field(
        default=None,
        description=(
            "Target when a concept names none. Omitted: the empty prompt (authors), and for a style the"
            " nearest other style of the vocabulary (authors: 'art'); '' takes a style off and leaves the"
            " object."
        ),
    )
    tokens: Literal["all", "last"] = Field(
        default="last",
        description=(
            "Which token columns of a prompt are edited. last: the one before EOS, the concept's last token"
            " (authors' newer code, of the bare name; here in each template). all: every position, padding"
            " too, which moves what all prompts share and costs neighbours (ours; the authors' older code"
            " starts at the concept's last token and always holds the empty prompt)."
        ),
    )
    preserve: list[Text] = Field(
        default=[], max_length=2048, description="Concepts whose keys and values are held (the paper's P)."
    )
    hold_vocabulary: bool | None = Field(
        default=None,
        description=(
            "Hold the rest of the model's vocabulary too, its concepts and styles that are not erased: for"
            " many concepts at once (ours). Omitted: where a style is erased, whose words stand beside every"
            " object; not otherwise, as in the paper."
        ),
    )
    erase_scale: float = Field(
        default=1.0, gt=0, le=1e4, description="Weight of each erased column (authors' default 1)."
    )
    preserve_scale: float = Field(
        default=1.0, ge=0, le=1e4, description="Weight of each preserved column (authors' default 1)."
    )
    ridge: float = Field(
        default=0.5, gt=0, le=1e6, description="λ, the pull towards the old weights (authors' default 0.5)."
    )
    expand_prompts: bool = Field(
        default=True,
        description="Edit the concept inside the common prompt templates too, not only its bare name.",
    )
