"""The parameters of diffusion completion."""

from typing import Literal

from pydantic import Field

from expunge.core.specs.attacks.attack import AttackSpec


class CompletionSpec(AttackSpec):
    """Diffusion completion (Lu et al., NeurIPS 2025): the base model begins the picture, the sanitized one
    ends it, both asked for the concept.

    A prompt counts where any beginning leads to the concept.
    """

    citation = "When Are Concepts Erased From Diffusion Models?, Lu et al., NeurIPS 2025"
    needs = "weights"
    decides = False

    name: Literal["completion"] = "completion"
    beginnings: list[float] = Field(
        default=[0.04, 0.08],
        min_length=1,
        max_length=8,
        description="Shares of the sampling steps that the base model takes (authors: 1 and 2 of 50 steps).",
    )

    def drawn(self) -> int:
        return self.images * len(self.beginnings)
