"""The parameters of SPEED."""

from typing import Literal

from pydantic import Field

from expunge.core.specs.closed_form import PromptEditSpec


class SpeedSpec(PromptEditSpec):
    """SPEED (Li et al., ICLR 2026): edits to_v in closed form, in the null space of what is retained;
    delivered as its exact LoRA.
    """

    citation = (
        "SPEED: Scalable, Precise, and Efficient Concept Erasure for Diffusion Models, Li et al., ICLR 2026"
    )
    departure = "principal directions of the empty prompt's states in the place of their k-means centres"

    name: Literal["speed"] = "speed"
    hold_vocabulary: bool = Field(
        default=True,
        description="Retain all concepts and styles of the model's vocabulary that are not erased.",
    )
    with_to_k: bool = Field(default=False, description="Edit the keys too (an option of the authors').")
    filter: bool = Field(
        default=True,
        description=(
            "Retain only what the edit would move more than the mean, so that a null space is left"
            " (influence-based prior filtering)."
        ),
    )
    augmentations: int = Field(
        default=10,
        ge=0,
        le=100,
        description=(
            "Variants of each retained column, moved along the direction that a layer reads least (directed"
            " prior augmentation; authors: 10)."
        ),
    )
    null_threshold: float = Field(
        default=0.1,
        gt=0,
        le=100,
        description=(
            "Directions in which the retained columns have less than this mean square are free (authors: 0.1,"
            " 1e-4 for celebrities). For columns of squared norm 750, as CLIP-L has them: it is scaled to"
            " the model's."
        ),
    )
    retain_scale: float = Field(
        default=1.0,
        gt=0,
        le=1e4,
        description=(
            "Weight of staying close to the old weights (authors: 1; 0.05 for celebrities); scaled as"
            " null_threshold is. It stands beside a mean over all concepts: give less of it where more are"
            " erased."
        ),
    )
    invariant_ridge: float = Field(
        default=0.0,
        ge=0,
        le=1e4,
        description=(
            "λ with which the start and the empty prompt stay where they are (authors: 0; 0.5 for nudity)."
        ),
    )
