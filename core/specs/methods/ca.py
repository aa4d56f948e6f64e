"""The parameters of CA."""

from typing import Literal

from pydantic import Field

from expunge.core.specs.fine_tuning import OutputSpec


class CaSpec(OutputSpec):
    """CA, Concept Ablation (Kumari et al., ICCV 2023): the concept's prediction becomes its target's (the
    paper's anchor), on pictures of the target.
    """

    citation = "Ablating Concepts in Text-to-Image Diffusion Models, Kumari et al., ICCV 2023"
    prunes = True

    name: Literal["ca"] = "ca"
    steps: int = Field(
        default=300,
        ge=1,
        le=20_000,
        description=(
            "Optimiser steps for each concept (authors: 100 to 200 at batch size 4; a style needs more)."
        ),
    )
    learning_rate: float = Field(
        default=5e-4,
        gt=0,
        le=1,
        description=(
            "Peak learning rate of Adam on the adapters, with which the target's prediction moves. The"
            " authors use 2e-6 on whole matrices."
        ),
    )
    latents: Literal["buffer"] = Field(
        default="buffer",
        description="Pictures of the target are drawn once and kept; there is no other choice.",
    )
    pictures: int = Field(
        default=64,
        ge=1,
        le=5000,
        description=(
            "Pictures of the target that the base model draws first. The authors use 1000, of 200 prompts."
        ),
    )
    anchor_network: Literal["current", "frozen"] = Field(
        default="current",
        description=(
            "Whose prediction of the target the concept's is mapped to. current: the network in training,"
            " with the gradient stopped (authors' code). frozen: the base model."
        ),
    )
    prior_weight: float = Field(
        default=1.0,
        ge=0,
        le=1e4,
        description=(
            "Weight of the ordinary denoising loss on the target's pictures, which keeps the target in"
            " place (authors: an option, 1 for nudity)."
        ),
    )
