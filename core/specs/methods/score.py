"""The parameters of SCORE."""

from typing import Literal

from pydantic import Field

from expunge.core.specs.fine_tuning import OutputSpec


class ScoreSpec(OutputSpec):
    """SCORE (Fu et al., 2025), a reconstruction, no public code was found: trains until a critic cannot tell
    the concept's pictures from its neighbours'.

    It guarantees no bound; what fresh critics can still tell is measured and reported.
    """

    citation = "SCORE: Secure and Concept-Oriented Robust Erasure, Fu et al., 2025"
    reconstruction = True
    prunes = True

    name: Literal["score"] = "score"
    adversarial_weight: float = Field(
        default=0.1,
        ge=0,
        le=1e4,
        description=(
            "Weight of confusing the critic: binary cross-entropy against one half (ours; not published)."
        ),
    )
    upper_weight: float = Field(
        default=1.0,
        ge=0,
        le=1e4,
        description=(
            "Weight of the upper bound: the distance between the concept's prediction and a neighbour's"
            " (ours)."
        ),
    )
    eta: float = Field(
        default=1.0,
        ge=0,
        le=20,
        description="Negative guidance away from the concept in the target of that distance. 0: none.",
    )
    trajectory_weight: float = Field(
        default=1.0,
        ge=0,
        le=1e4,
        description=(
            "Weight of trajectory consistency for neighbours, the empty prompt and early steps (ours)."
        ),
    )
    keep: float = Field(
        default=0.05,
        ge=0,
        lt=1,
        description=(
            "Share of the trajectory, from pure noise on, where the concept's own prediction is kept."
        ),
    )
    saliency: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description=(
            "Share of the adapters that are trained: those with the largest gradients of the concept's"
            " loss (SalUn's γ = 0.5, here per layer)."
        ),
    )
    candidates: int = Field(
        default=10,
        ge=1,
        le=2000,
        description="Number of nearest concepts that stand for the concept's absence (C = 0).",
    )
    critic_learning_rate: float = Field(
        default=1e-3, gt=0, le=1, description="Learning rate of Adam on the critic (ours)."
    )
    leakage_pictures: int = Field(
        default=32,
        ge=0,
        le=4096,
        description=(
            "Pictures of held-out prompts drawn at the end, of the concept and as many of its neighbours,"
            " from which fresh critics read the leakage (`leakage_nats` in the report). 0: not measured."
        ),
    )
