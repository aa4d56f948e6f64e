"""The parameters of All but One."""

from typing import Literal

from pydantic import Field

from expunge.core.specs.fine_tuning import FineTuneSpec


class AllButOneSpec(FineTuneSpec):
    """All but One (Hong et al., AAAI 2024), a reconstruction: edit the guidance term, hold the unconditional
    score.
    """

    citation = "All but One: Surgical Concept Erasing with Model Preservation, Hong et al., AAAI 2024"
    reconstruction = True
    hides = True
    prunes = True

    name: Literal["all_but_one"] = "all_but_one"
    eta: float = Field(
        default=1.0,
        ge=0,
        le=20,
        description="Without an alternative concept (target), the guidance term becomes -eta times itself.",
    )
    drift_weight: float = Field(
        default=1.0,
        ge=0,
        le=1e4,
        description="Weight of the unconditional score's drift (not published: ours).",
    )
