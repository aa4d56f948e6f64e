"""Closed-form methods: TIME, UCE, RECE."""

from typing import Literal

from pydantic import Field, field_validator

from expunge.core.specs.base import Spec, Text, TextOrEmpty
from expunge.core.specs.debias import DebiasSpec


class UnifiedEditSpec(Spec):
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


class UceSpec(UnifiedEditSpec):
    """UCE, Unified Concept Editing (Gandikota et al., WACV 2024): closed form on to_k and to_v; exported as
    its exact LoRA.
    """

    name: Literal["uce"] = "uce"
    debias: DebiasSpec = Field(
        default=DebiasSpec(), description="How concepts with attributes are spread over them."
    )

    @field_validator("debias")
    @classmethod
    def counted(cls, debias: DebiasSpec) -> DebiasSpec:
        if debias.rounds == 0:
            raise ValueError("rounds: UCE's weights are found by counting: give 1 or more")
        return debias


class TimeSpec(Spec):
    """TIME (Orgad et al., ICCV 2023): closed form on to_v, token by token; exact LoRA.

    The alignment for erasing is a reconstruction.
    """

    name: Literal["time"] = "time"
    guide: TextOrEmpty | None = Field(
        default=None,
        description=(
            "Target when a concept names none. Omitted or '': the prompt without it; omitted, a style becomes"
            " the nearest other style."
        ),
    )
    ridge: float = Field(
        default=1000.0,
        gt=0,
        le=1e6,
        description=(
            "λ of Eq. 3, the pull towards the old weights. The authors take 0.1, which nothing outlives where"
            " the token columns span the text space; 1000 was chosen by trial on the bundled model."
        ),
    )
    with_to_k: bool = Field(
        default=True, description="Edit the keys too (the authors' option `with_to_k`, off there)."
    )


class ReceSpec(UnifiedEditSpec):
    """RECE (Gong et al., ECCV 2024): UCE, then closed-form rounds that erase what still brings the old
    values back; full-rank exact LoRA.
    """

    name: Literal["rece"] = "rece"
    ridge: float = Field(
        default=100.0,
        gt=0,
        le=1e6,
        description=(
            "λ, the pull towards the old weights, in every round. The authors take 0.1; 100 was chosen by"
            " trial on the bundled model: more keeps more, and makes the rounds weaker."
        ),
    )
    rounds: int = Field(
        default=3, ge=1, le=50, description="Rounds after UCE's own edit (authors: 2 to 5, 3 for nudity)."
    )
    adversarial_ridge: float = Field(
        default=0.1,
        gt=0,
        le=1e6,
        description=(
            "λ of the adversarial embedding's closed form (authors: 1e-1; 1e-3 for styles and hard objects)."
        ),
    )
