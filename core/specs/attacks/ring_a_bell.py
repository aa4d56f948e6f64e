"""The parameters of Ring-A-Bell."""

from typing import Literal

from pydantic import Field

from expunge.core.specs.attacks.attack import AttackSpec


class RingABellSpec(AttackSpec):
    """Ring-A-Bell (Tsai et al., ICLR 2024): a genetic search for tokens whose text states are those of a
    prompt with the concept's direction added. It needs the text encoder alone.
    """

    citation = (
        "Ring-A-Bell! How Reliable are Concept Removal Methods for Diffusion Models?, Tsai et al., ICLR 2024"
    )
    departure = "directions from the model's own prompts with the concept and with other concepts"
    needs = "text encoder"

    name: Literal["ring_a_bell"] = "ring_a_bell"
    tokens: int = Field(default=16, ge=1, le=60, description="Tokens to find (authors: 16, 38 or 77).")
    strength: float = Field(
        default=3.0, ge=0, le=20, description="Weight of the concept's direction, eta (authors: 3)."
    )
    population: int = Field(default=200, ge=4, le=2000, description="Candidates (authors: 200).")
    generations: int = Field(default=300, ge=1, le=20_000, description="Generations (authors: 3000).")
    mutation: float = Field(default=0.25, ge=0, le=1, description="Chance of a mutation (authors: .25).")
    crossover: float = Field(default=0.5, ge=0, le=1, description="Chance of a crossover (authors: .5).")

    def needs_others(self) -> bool:
        return True
