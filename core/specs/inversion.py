"""How a concept is learned from images."""

from pydantic import Field

from expunge.core.specs.base import Spec


class InversionSpec(Spec):
    """Textual inversion (Gal et al., ICLR 2023), Eq. 18: the embedding of a new word for what the images
    show; every weight stays frozen.
    """

    vectors: int = Field(
        default=1, ge=1, le=16, description="Embeddings a word has; more hold more detail (paper: 1)."
    )
    steps: int = Field(
        default=200,
        ge=1,
        le=20_000,
        description="Optimiser steps for each word (paper: 5000 on Stable Diffusion's ancestor).",
    )
    batch_size: int = Field(
        default=4, ge=1, le=64, description="Noised images a step (paper: 4 on each of two GPUs)."
    )
    learning_rate: float = Field(
        default=5e-3,
        gt=0,
        le=1,
        description="Rate of Adam on the embeddings (diffusers' script: 5e-4 times the batch).",
    )
    checkpoint_every: int = Field(default=50, ge=1, le=20_000, description="Steps between checkpoints.")
    show_images: bool = Field(
        default=True,
        description=(
            "Whether report.html shows the images that the word was learned from; false: the bundle holds"
            " none of them."
        ),
    )
