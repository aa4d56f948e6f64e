"""The parameters of the noise probe."""

from typing import Literal

from pydantic import Field

from expunge.core.specs.attacks.attack import AttackSpec

ETAS = (1.0, 1.17, 1.34, 1.51, 1.68, 1.85)
SCALES = (1.0, 1.02, 1.03, 1.04)


class NoiseProbeSpec(AttackSpec):
    """The noise-based probe of "When Are Concepts Erased From Diffusion Models?" (Lu et al., NeurIPS 2025):
    the concept's own prompt, sampled with more noise than the model expects. It needs no gradient.

    A prompt counts where any of its pictures (one for each eta and scale) shows the concept.
    """

    citation = "When Are Concepts Erased From Diffusion Models?, Lu et al., NeurIPS 2025"
    needs = "weights"

    name: Literal["noise_probe"] = "noise_probe"
    images: int = Field(default=8, ge=2, le=200, description="Prompts and seeds that are tried.")
    etas: list[float] = Field(
        default=list(ETAS), min_length=1, max_length=12, description="Noise levels of the sampler, eta."
    )
    scales: list[float] = Field(
        default=[1.0],
        min_length=1,
        max_length=8,
        description=f"Further factors of that noise (authors: {', '.join(map(str, SCALES))}).",
    )

    def drawn(self) -> int:
        return self.images * len(self.etas) * len(self.scales)
