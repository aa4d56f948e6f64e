"""The parameters of RECE."""

from typing import Literal

from pydantic import Field

from expunge.core.specs.closed_form import UnifiedEditSpec


class ReceSpec(UnifiedEditSpec):
    """RECE (Gong et al., ECCV 2024): UCE, then closed-form rounds that erase whatever still restores the old
    values; delivered as an exact LoRA of full rank.
    """

    citation = "Reliable and Efficient Concept Erasure, Gong et al., ECCV 2024"

    name: Literal["rece"] = "rece"
    ridge: float = Field(
        default=100.0,
        gt=0,
        le=1e6,
        description=(
            "λ, the weight of staying close to the old weights, in every round. The authors use 0.1; 100"
            " was chosen by trial on the bundled model. A larger value preserves more and weakens the"
            " rounds."
        ),
    )
    rounds: int = Field(
        default=3, ge=1, le=50, description="Rounds after UCE's own edit (authors: 2 to 5; 3 for nudity)."
    )
    adversarial_ridge: float = Field(
        default=0.1,
        gt=0,
        le=1e6,
        description=(
            "λ in the closed form of the adversarial embedding (authors: 1e-1; 1e-3 for styles and hard"
            " objects)."
        ),
    )
