"""What the closed forms that edit prompts into other prompts share."""

from typing import Literal

from pydantic import Field

from expunge.core.specs.fields import Text, TextOrEmpty
from expunge.core.specs.method import MethodSpec


class PromptEditSpec(MethodSpec):
    """Which prompts an edit changes, into what, and which it holds."""

    guide: TextOrEmpty | None = Field(
        default=None,
        description=(
            "The target of concepts that name none. Omitted: the empty prompt, as in the authors' code;"
            " for a style the nearest other style of the vocabulary (authors: 'art'). '': removes a style"
            " and leaves the object."
        ),
    )
    tokens: Literal["all", "last"] = Field(
        default="last",
        description=(
            "Which token columns of a prompt are edited. last: the one before EOS, which is the concept's"
            " last token; the authors' newer code edits it in the bare name, ours in every template. all:"
            " every position, padding included; this changes what all prompts share and costs neighbouring"
            " concepts (ours; the authors' older code starts at the concept's last token and always"
            " preserves the empty prompt)."
        ),
    )
    preserve: list[Text] = Field(
        default=[],
        max_length=2048,
        description="Concepts whose keys and values are preserved (the paper's P).",
    )
    hold_vocabulary: bool | None = Field(
        default=None,
        description=(
            "Preserve the rest of the model's vocabulary too: all its concepts and styles that are not"
            " erased. For erasing many concepts at once (ours). Omitted: true where a style is erased,"
            " because a style's words stand beside every object; otherwise false, as in the paper."
        ),
    )
    expand_prompts: bool = Field(
        default=True,
        description="Edit the concept in the common prompt templates too, not only its bare name.",
    )


class UnifiedEditSpec(PromptEditSpec):
    """What UCE and RECE share."""

    erase_scale: float = Field(
        default=1.0, gt=0, le=1e4, description="Weight of each erased column (authors: 1)."
    )
    preserve_scale: float = Field(
        default=1.0, ge=0, le=1e4, description="Weight of each preserved column (authors: 1)."
    )
    ridge: float = Field(
        default=0.5,
        gt=0,
        le=1e6,
        description="λ, the weight of staying close to the old weights (authors: 0.5).",
    )
