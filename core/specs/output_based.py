"""Output-based methods with one loss: naive, ESD, All but One."""

from typing import Literal

from pydantic import Field

from core.specs.fine_tuned import FineTuneSpec


class EsdSpec(FineTuneSpec):
    """ESD, Erasing Concepts from Diffusion Models (Gandikota et al., ICCV 2023)."""

    name: Literal["esd"] = "esd"
    eta: float = Field(
        default=1.0,
        ge=0,
        le=20,
        description="Negative guidance: target = eps_0 - eta (eps_c - eps_0); 1.0 is the paper's (newer public code calls this 2.0).",
    )


class NaiveSpec(FineTuneSpec):
    """The naive output-based loss (Eq. 7/13): map to a target, hold a neutral or preserved concept."""

    name: Literal["naive"] = "naive"
    eta: float = Field(
        default=0.0, ge=0, le=20, description="Push away from the concept; 0 is Eq. 7 as printed, 1 the published code's default."
    )
    preserve_weight: float = Field(default=0.1, ge=0, le=1e4, description="λ of Eq. 7, the weight of what must stay (published code: 0.1).")


class AllButOneSpec(FineTuneSpec):
    """All but One (Hong et al., AAAI 2024), a reconstruction: edit the guidance term, hold the unconditional score."""

    name: Literal["all_but_one"] = "all_but_one"
    eta: float = Field(
        default=1.0, ge=0, le=20, description="Without an alternative concept (target), the guidance term becomes -eta times itself."
    )
    drift_weight: float = Field(default=1.0, ge=0, le=1e4, description="Weight of the unconditional score's drift (not published: ours).")
