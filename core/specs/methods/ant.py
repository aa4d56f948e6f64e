"""The parameters of ANT."""

from typing import Literal

from pydantic import Field

from expunge.core.specs.fine_tuning import OutputSpec


class AntSpec(OutputSpec):
    """ANT, Auto-Steering Denoising Trajectories (Li et al., 2025): keeps the concept's direction in early
    steps and reverses it in later ones.
    """

    citation = (
        "Set You Straight: Auto-Steering Denoising Trajectories to Sidestep Unwanted Concepts, Li et "
        "al., 2025"
    )
    prunes = True

    name: Literal["ant"] = "ant"
    learning_rate: float = Field(
        default=5e-4,
        gt=0,
        le=1,
        description=(
            "Peak learning rate of Adam on the adapters (authors' code: 5e-4 on the whole, masked U-Net)."
        ),
    )
    variant: Literal["paper", "authors_code"] = Field(
        default="paper",
        description=(
            "paper: the noisy steps are kept and the unconditional score may not drift. authors_code: the"
            " clean steps are kept, which is how its index counts, and the drift terms have no gradient."
        ),
    )
    eta: float = Field(
        default=1.0,
        ge=0,
        le=20,
        description="Negative guidance of the later steps: eps_0 - eta (eps_c - eps_0).",
    )
    eta_keep: float = Field(
        default=1.0,
        ge=0,
        le=20,
        description="Guidance of the kept steps; 1 is the base model's own prediction.",
    )
    keep: float = Field(
        default=0.14,
        ge=0,
        lt=1,
        description="Share of the trajectory whose direction is kept (authors: 7 of 50 steps).",
        examples=[0.14],
    )
    keep_weight: float = Field(
        default=0.1,
        ge=0,
        le=1e4,
        description=(
            "α1, the weight of the kept steps' mean beside that of the later steps. With 1 (the authors'"
            " value) more of the concept remains on the bundled model: in 10 % of the pictures of three"
            " objects."
        ),
    )
    drift_weight: float = Field(
        default=0.5,
        ge=0,
        le=1e4,
        description="α2, the weight of the unconditional score's drift (authors: 0.5).",
    )
