"""The parameters of UCE."""

from typing import Literal

from pydantic import Field, field_validator

from expunge.core.specs.closed_form import UnifiedEditSpec
from expunge.core.specs.debias import DebiasSpec


class UceSpec(UnifiedEditSpec):
    """UCE, Unified Concept Editing (Gandikota et al., WACV 2024): edits to_k and to_v in closed form;
    delivered as its exact LoRA.
    """

    citation = "Unified Concept Editing, Gandikota et al., WACV 2024"
    debiases = True

    name: Literal["uce"] = "uce"
    debias: DebiasSpec = Field(
        default=DebiasSpec(), description="How concepts with attributes are spread over them."
    )

    @field_validator("debias")
    @classmethod
    def counted(cls, debias: DebiasSpec) -> DebiasSpec:
        if debias.rounds == 0:
            raise ValueError("rounds: UCE finds its weights by counting: give 1 or more")
        return debias
