"""How a concept is spread over attributes."""

from pydantic import Field

from expunge.core.specs.base import Spec


class DebiasSpec(Spec):
    """Draw the concept, count its attributes, move each one's weight by what it lacks, go on: UCE's loop,
    which AGE takes over here.

    The weights are UCE's α_t, and in AGE the logarithms of the shares by which attributes are drawn in
    training (its balancing is ours: guidance favours whichever attribute is nearer, so that training in equal
    shares does not draw in equal shares; the best-counted adapter stays).
    """

    rounds: int = Field(
        default=12,
        ge=0,
        le=100,
        description=(
            "Rounds of counting at most (UCE's authors: 30); 0, in AGE, trains with the asked shares as they"
            " are."
        ),
    )
    images: int = Field(
        default=24, ge=4, le=500, description="Pictures drawn of each concept in a round (authors: 10)."
    )
    step_size: float = Field(
        default=0.5,
        gt=0,
        le=10,
        description=(
            "Weight += step_size (asked share - share found). The authors' code has it, and never uses it: 1."
            " In AGE, divided by the square root of the round."
        ),
    )
    tolerance: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="Stop when no share is further from the one asked (authors: 0.05).",
    )
    sampling_steps: int = Field(
        default=20,
        ge=2,
        le=200,
        description="Steps of a picture, of the checkpoint's own scheduler (authors: 20).",
    )
    guidance_scale: float = Field(
        default=7.5, ge=1, le=30, description="Classifier-free guidance of a picture."
    )
