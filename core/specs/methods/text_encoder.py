"""The parameters of the text-encoder method."""

from typing import Literal

from pydantic import Field

from expunge.core.specs.fine_tuning import TextLoraSpec, TrainSpec


class TextEncoderSpec(TrainSpec):
    """The naive text-encoder method (Eq. 2 of Bui et al.): maps the concept's text states to the target's.

    Loading the stock text encoder undoes it.
    """

    citation = "the naive text-encoder loss, Eq. 2 of Bui et al., ICLR 2025, with the frozen encoder's target"
    delta = "text_encoder_lora"
    architectures = ("stable_diffusion",)  # of two encoders either alone leaves the concept in the other

    name: Literal["text_encoder"] = "text_encoder"
    batch_size: int = Field(default=8, ge=1, le=64, description="Prompts per step.")
    ridge: float = Field(
        default=0.1,
        ge=0,
        le=1e6,
        description=(
            "λ of Eq. 2, the weight of |φ' - φ|², the squared norm of the LoRA's update. It applies to"
            " text states of 4,096 numbers, the bundled model's, and is scaled for others, because the"
            " first term is a mean over them (ours: 0.1)."
        ),
    )
    preserve_weight: float = Field(
        default=1.0,
        ge=0,
        le=1e4,
        description=(
            "Weight of preserving the text states of the job's `preserve` concepts (ours; Eq. 2 has no"
            " such term)."
        ),
    )
    lora: TextLoraSpec = Field(
        default=TextLoraSpec(), description="The adapter's rank, scale and layers, in the text encoder."
    )
