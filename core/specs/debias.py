"""How a concept is spread over attributes."""

from pydantic import Field

from expunge.core.specs.base import Spec


class DebiasSpec(Spec):
    """Debias by counting: draw the concept, count its attributes, move each attribute's weight by what its
    share lacks, and repeat. The loop is UCE's; AGE uses it too.

    In UCE the weights are α_t. In AGE they are the logarithms of the shares in which attributes are drawn in
    training. That balancing is ours: guidance favours the attribute that is nearer to the concept, so equal
    shares in training are not equal shares in pictures. The adapter with the best counts is kept.
    """

    rounds: int = Field(
        default=12,
        ge=0,
        le=100,
        description=(
            "Maximum number of rounds (UCE's authors: 30). 0, in AGE only: train with the requested shares"
            " as they are."
        ),
    )
    images: int = Field(
        default=24, ge=4, le=500, description="Pictures drawn of each concept per round (authors: 10)."
    )
    step_size: float = Field(
        default=0.5,
        gt=0,
        le=10,
        description=(
            "Weight += step_size (requested share - share found). Unused, effectively 1, in the authors'"
            " code. In AGE it is divided by the square root of the round."
        ),
    )
    tolerance: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="Stop when no share is farther from the requested one (authors: 0.05).",
    )
    sampling_steps: int = Field(
        default=20,
        ge=2,
        le=200,
        description="Sampling steps of a picture, with the checkpoint's own scheduler (authors: 20).",
    )
    guidance_scale: float = Field(
        default=7.5, ge=1, le=30, description="Classifier-free guidance of a picture."
    )
