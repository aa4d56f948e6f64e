"""The parameters of ESD."""

from typing import Literal

from pydantic import Field

from expunge.core.specs.fine_tuning import OutputSpec


class EsdSpec(OutputSpec):
    """ESD, Erasing Concepts from Diffusion Models (Gandikota et al., ICCV 2023): pushes the concept's
    prediction away from itself.
    """

    citation = "Erasing Concepts from Diffusion Models, Gandikota et al., ICCV 2023"
    hides = True
    prunes = True

    name: Literal["esd"] = "esd"
    eta: float = Field(
        default=1.0,
        ge=0,
        le=20,
        description=(
            "Negative guidance: target = eps_0 - eta (eps_c - eps_0). 1.0 is the paper's value; the newer"
            " public code calls it 2.0."
        ),
    )
