"""The parameters of RECE."""

from typing import Literal

from pydantic import Field

from expunge.core.specs.closed_form import UnifiedEditSpec


class ReceSpec(UnifiedEditSpec):
    """RECE (Gong et al., ECCV 2024): UCE, then closed-form rounds that erase what still brings the old
    values back; full-rank exact LoRA.
    """

    citation = "Reliable and Efficient Concept Erasure, Gong et al., ECCV 2024"

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
