"""The parameters of All but One."""

from typing import Literal

from pydantic import Field

from expunge.core.specs.fine_tuning import OutputSpec


class AllButOneSpec(OutputSpec):
    """All but One (Hong et al., AAAI 2024), a reconstruction: edits the guidance term and preserves the
    unconditional score.
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
        description="Where a concept has no target, the guidance term becomes -eta times itself.",
    )
    drift_weight: float = Field(
        default=1.0,
        ge=0,
        le=1e4,
        description="Weight of the unconditional score's drift (ours; not published).",
    )
