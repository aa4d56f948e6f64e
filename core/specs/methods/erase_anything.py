"""The parameters of EraseAnything."""

from typing import Literal

from pydantic import Field

from expunge.core.specs.fine_tuning import FineTuneSpec


class EraseAnythingSpec(FineTuneSpec):
    """EraseAnything (Gao et al., ICML 2025), its losses as far as they apply to a U-Net: alternates between
    ESD with attention, and preservation with contrast.

    FLUX's flow target, joint attention and add_q/add_k layers are left out. Synonyms and unrelated concepts
    come from the concept space, not from a language model.
    """

    citation = "EraseAnything, Gao et al., ICML 2025"
    departure = "its losses as far as they apply to a U-Net"
    prunes = True

    name: Literal["erase_anything"] = "erase_anything"
    steps: int = Field(
        default=120,
        ge=1,
        le=20_000,
        description=(
            "Optimiser steps for each concept, half of them at each of the two levels (authors: 200)."
        ),
    )
    learning_rate: float = Field(
        default=2e-3,
        gt=0,
        le=1,
        description="Peak learning rate of Adam on the adapters (authors: 1e-3 at rank 8).",
    )
    eta: float = Field(
        default=1.0, ge=0, le=20, description="Negative guidance of the ESD term (authors: 1)."
    )
    attention_weight: float = Field(
        default=1e-3,
        ge=0,
        le=1e4,
        description="λ2, the weight of attention to the concept's tokens (authors: 1e-3).",
    )
    hold_weight: float = Field(
        default=1.0,
        ge=0,
        le=1e4,
        description=(
            "λ3, the weight of preserving other concepts' predictions (authors: 0.1 on their flow target)."
        ),
    )
    contrast_weight: float = Field(
        default=0.1, ge=0, le=1e4, description="λ4, the weight of the reversed InfoNCE (authors: 0.1)."
    )
    temperature: float = Field(
        default=0.07, gt=0, le=100, description="τ of the reversed InfoNCE (authors: 0.07)."
    )
    strangers: int = Field(
        default=3,
        ge=1,
        le=64,
        description=(
            "K, the number of unrelated concepts in the contrast: the farthest of the concept space"
            " (authors: 3)."
        ),
    )
