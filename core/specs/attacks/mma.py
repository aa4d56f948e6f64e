"""The parameters of MMA-Diffusion."""

from typing import Literal

from pydantic import Field

from expunge.core.specs.attacks.attack import AttackSpec


class MmaSpec(AttackSpec):
    """MMA-Diffusion's text attack (Yang et al., CVPR 2024): greedy coordinate gradient over tokens, none of
    which spells the concept, until their text state is that of the concept's prompt.
    """

    citation = "MMA-Diffusion: MultiModal Attack on Diffusion Models, Yang et al., CVPR 2024"
    departure = "the text modality alone"
    needs = "text encoder"

    name: Literal["mma"] = "mma"
    tokens: int = Field(default=20, ge=1, le=60, description="Tokens to find (authors: 20).")
    steps: int = Field(default=100, ge=1, le=20_000, description="Steps; each changes one token.")
    candidates: int = Field(
        default=64, ge=2, le=2048, description="Changes tried at every step (authors: 512)."
    )
    top_k: int = Field(
        default=64,
        ge=1,
        le=4096,
        description="Best tokens of each place to draw changes from (authors: 256).",
    )
