"""The parameters of SCORE."""

from typing import Literal

from pydantic import Field

from expunge.core.specs.fine_tuning import FineTuneSpec


class ScoreSpec(FineTuneSpec):
    """SCORE (Fu et al., 2025), a reconstruction, no public code was found: a critic must not tell the
    concept's pictures from its neighbours'.

    It promises no bound; what leaks to fresh critics is measured and reported.
    """

    citation = "SCORE: Secure and Concept-Oriented Robust Erasure, Fu et al., 2025"
    reconstruction = True
    prunes = True

    name: Literal["score"] = "score"
    adversarial_weight: float = Field(
        default=0.1,
        ge=0,
        le=1e4,
        description="Weight of the critic's confusion, BCE against one half (not published: ours).",
    )
    upper_weight: float = Field(
        default=1.0,
        ge=0,
        le=1e4,
        description=(
            "Weight of the upper bound: the distance of the concept's prediction from a neighbour's (ours)."
        ),
    )
    eta: float = Field(
        default=1.0,
        ge=0,
        le=20,
        description="Negative guidance away from the concept in that distance's aim; 0 = none.",
    )
    trajectory_weight: float = Field(
        default=1.0,
        ge=0,
        le=1e4,
        description=(
            "Weight of trajectory consistency on neighbours, the empty prompt and early steps (ours)."
        ),
    )
    keep: float = Field(
        default=0.05,
        ge=0,
        lt=1,
        description="Share of the trajectory, from pure noise, where the concept's own prediction is kept.",
    )
    saliency: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description=(
            "Share of the adapters that are trained: those the concept's loss moves most (SalUn's γ = 0.5, by"
            " layers)."
        ),
    )
    candidates: int = Field(
        default=10, ge=1, le=2000, description="Nearest concepts that stand for its absence (C = 0)."
    )
    critic_learning_rate: float = Field(
        default=1e-3, gt=0, le=1, description="Adam rate of the critic (ours)."
    )
    leakage_pictures: int = Field(
        default=32,
        ge=0,
        le=4096,
        description=(
            "Pictures of the concept, and as many of its neighbours, of held-out prompts, off which fresh"
            " critics read the leakage at the end (report: leakage_nats); 0 = not measured."
        ),
    )
