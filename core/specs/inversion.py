"""How a concept is learned from images."""

from pydantic import Field

from expunge.core.specs.base import Spec


class InversionSpec(Spec):
    """Textual inversion (Gal et al., ICLR 2023), Eq. 18: learns the embedding of a new word for what the
    images show; all weights stay frozen.
    """

    vectors: int = Field(
        default=1, ge=1, le=16, description="Embeddings per word; more of them hold more detail (paper: 1)."
    )
    steps: int = Field(
        default=200,
        ge=1,
        le=20_000,
        description="Optimiser steps for each word (paper: 5000, on Stable Diffusion's predecessor).",
    )
    batch_size: int = Field(
        default=4, ge=1, le=64, description="Noised images per step (paper: 4 on each of two GPUs)."
    )
    learning_rate: float = Field(
        default=5e-3,
        gt=0,
        le=1,
        description=(
            "Learning rate of Adam on the embeddings (diffusers' script: 5e-4 times the batch size)."
        ),
    )
    checkpoint_every: int = Field(default=50, ge=1, le=20_000, description="Steps between checkpoints.")
    show_images: bool = Field(
        default=True,
        description=(
            "Whether report.html shows the images that the word was learned from. false: the bundle"
            " contains none of them."
        ),
    )
