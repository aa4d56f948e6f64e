"""How much pictures still say of an erased concept: what of it is measured."""

from typing import Annotated

from pydantic import Field

from expunge.core.specs.base import Spec
from expunge.core.specs.fields import TextOrEmpty

LEAST_PAIRS = 6  # of 5, 2 of the 32 ways to swap them have the same HSIC: no p-value would be below 0.05


class LeakageSpec(Spec):
    """A measured bracket, in nats, of what a picture still says of whether its prompt named the concept."""

    pairs: int = Field(
        default=24,
        ge=LEAST_PAIRS,
        le=500,
        description=(
            "Pairs of pictures of each erased concept that are drawn by both models, one asked for by the"
            " concept and one by something else, in prompts that no method trains on. A pair costs as much as"
            " eight pictures: each step of each picture asks for both prompts."
        ),
    )
    against: Annotated[list[TextOrEmpty], Field(min_length=1, max_length=64)] | None = Field(
        default=None,
        description=(
            'What the other prompt names, in turn; "": nothing. Omitted: the concept\'s target or, without'
            " one, the eight nearest concepts that are not erased. The concept's own name is a control, which"
            " must leak nothing."
        ),
    )
