"""The parameters of STEREO."""

from typing import Literal

from pydantic import Field

from expunge.core.specs.adversary import AdversarySpec
from expunge.core.specs.fine_tuning import FineTuneSpec, LoraSpec


class StereoSpec(FineTuneSpec):
    """STEREO (Srivatsan et al., CVPR 2025): searches thoroughly enough, by erasing what an inversion found
    last, for words that bring the concept back; then, from the base model, erases concept and words at once.
    """

    citation = (
        "STEREO: A Two-Stage Framework for Adversarially Robust Concept Erasing from Text-to-Image Diffusion"
        " Models, Srivatsan et al., CVPR 2025"
    )
    departure = "words are searched by the base model's predictions, not by pictures"

    name: Literal["stereo"] = "stereo"
    lora: LoraSpec = Field(
        default=LoraSpec(target_modules="full"),
        description="The adapter's rank, scale and layers (authors: all weights outside cross-attention).",
    )
    rounds: int = Field(
        default=4,
        ge=1,
        le=100,
        description="Rounds of erasing and searching in the first stage (authors: 4).",
    )
    round_steps: int = Field(
        default=50,
        ge=1,
        le=20_000,
        description="Optimiser steps for each concept in a round of the first stage (authors: 200).",
    )
    restarts: int = Field(
        default=1, ge=1, le=16, description="Searches in a round, each from another start (authors: 1)."
    )
    vectors: int = Field(default=4, ge=1, le=16, description="Embeddings of a word (authors: 1).")
    search_steps: int = Field(
        default=80, ge=1, le=20_000, description="Steps of each search (authors: 3000 at batch 1)."
    )
    search_batch: int = Field(default=8, ge=1, le=64, description="Latents per step of a search.")
    search_learning_rate: float = Field(
        default=2e-2, gt=0, le=1, description="Learning rate of Adam on a word (authors: 5e-3)."
    )
    guidance: float = Field(
        default=2.0,
        ge=0,
        le=30,
        description=(
            "s of the first stage's target eps_c - (s - 1) (eps_c - eps_0), and of the second's: anchors"
            " weigh s - 1, the concept and what was found s + 1 (authors: 2)."
        ),
    )
    anchors: int = Field(
        default=16,
        ge=1,
        le=256,
        description=(
            "Prompts that name the concept beside another one, of which the concept is taken out in the"
            " second stage (authors: sentences by a language model)."
        ),
    )

    def search(self) -> AdversarySpec:
        """The first stage's searches; in the second, each of all that is erased is asked as often."""
        return AdversarySpec(
            rounds=self.rounds,
            restarts=self.restarts,
            vectors=self.vectors,
            search_steps=self.search_steps,
            search_batch=self.search_batch,
            search_learning_rate=self.search_learning_rate,
            own_share=1 / (1 + self.rounds * self.restarts),
        )
