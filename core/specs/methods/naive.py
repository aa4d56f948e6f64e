"""The parameters of the naive method."""

from typing import Literal

from pydantic import Field

from expunge.core.specs.fine_tuning import OutputSpec


class NaiveSpec(OutputSpec):
    """The naive output-based loss (Eq. 7/13): maps the concept to a target and preserves the empty prompt or
    a concept of `preserve`.
    """

    citation = "the naive output-based loss, Gandikota et al., ICCV 2023, as in Bui et al., ICLR 2025, Eq. 7"
    hides = True
    prunes = True

    name: Literal["naive"] = "naive"
    eta: float = Field(
        default=1.0,
        ge=0,
        le=20,
        description=(
            "Negative guidance away from the concept. 1 is the default of the published code; 0 is Eq. 7"
            " as printed, which leaves many concepts half erased."
        ),
    )
    preserve_weight: float = Field(
        default=0.1,
        ge=0,
        le=1e4,
        description="λ of Eq. 7, the weight of preserving (published code: 0.1).",
    )
