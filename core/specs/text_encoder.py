"""Methods that train the text encoder: Eq. 2, AdvUnlearn. Their deltas are LoRAs on the text encoder,
which anyone may swap for the stock one.
"""

from typing import Literal

from pydantic import Field

from expunge.core.specs.base import Spec
from expunge.core.specs.fine_tuning import LatentsSpec, LayerNames, TrainSpec


class TextLoraSpec(Spec):
    """The adapter on the text encoder that is trained and shipped."""

    rank: int = Field(default=16, ge=1, le=256, description="Rank r of every adapter.")
    alpha: float | None = Field(
        default=None, gt=0, le=1024, description="Scale is alpha / rank; omitted: alpha = rank (scale 1)."
    )
    target_modules: Literal["attention", "mlp", "full"] | LayerNames = Field(
        default="full",
        description=(
            "Which linear layers of the text encoder get an adapter: attention = q, k, v and out projections;"
            " mlp; full = both (AdvUnlearn's text_encoder_full, but for embeddings and norms); or a list of"
            " module name suffixes."
        ),
    )


class TextEncoderSpec(TrainSpec):
    """The naive text-encoder method (Eq. 2 of Bui et al.): the concept's text states become the target's.

    Swapping in the stock encoder undoes it.
    """

    name: Literal["text_encoder"] = "text_encoder"
    batch_size: int = Field(default=8, ge=1, le=64, description="Prompts a step.")
    ridge: float = Field(
        default=0.1,
        ge=0,
        le=1e6,
        description=(
            "λ of Eq. 2, the weight of |φ' - φ|², the squared size of the LoRA's difference, for each 4,096"
            " numbers of the text states (as many as the bundled model's have), over which the first term is"
            " a mean (ours: 0.1)."
        ),
    )
    preserve_weight: float = Field(
        default=1.0,
        ge=0,
        le=1e4,
        description=(
            "Weight of holding the text states of the job's `preserve` concepts (ours; Eq. 2 has no such"
            " term)."
        ),
    )
    lora: TextLoraSpec = Field(
        default=TextLoraSpec(), description="The adapter's rank, scale and layers, in the text encoder."
    )


class AdvUnlearnSpec(LatentsSpec):
    """AdvUnlearn (Zhang et al., NeurIPS 2024): ESD through the text encoder, against an adversarial
    prefix. Swapping in the stock encoder undoes it.
    """

    name: Literal["adv_unlearn"] = "adv_unlearn"
    eta: float = Field(
        default=1.0,
        ge=0,
        le=20,
        description=(
            "Negative guidance of the ESD loss: target = eps_0 - eta (eps_c - eps_0), as in `esd`"
            " (authors: 1)."
        ),
    )
    warm_up: float = Field(
        default=0.2,
        ge=0,
        le=1,
        description="Share of the steps before the attack begins (authors: 200 of 1000).",
    )
    attack_steps: int = Field(
        default=8,
        ge=0,
        le=1000,
        description=(
            "Sign-gradient steps on the prefix for each weight step, from a random token (authors: 30, from"
            " the latest attack); 0 = no attack."
        ),
    )
    attack_learning_rate: float = Field(
        default=0.1,
        gt=0,
        le=10,
        description=(
            "Size of one sign step, in units of the root mean square of the token embeddings (authors: 1e-3,"
            " absolute)."
        ),
    )
    prefix_tokens: int = Field(
        default=1, ge=1, le=16, description="Adversarial tokens before the prompt's own (authors: 1)."
    )
    retain_weight: float = Field(
        default=1.0, ge=0, le=1e4, description="Weight of the retain loss (authors: 0.3 or 1)."
    )
    retain_batch: int = Field(default=4, ge=1, le=64, description="Retained prompts a step (authors: 5).")
    retain_concepts: int = Field(
        default=20,
        ge=1,
        le=2000,
        description=(
            "Concepts of the model's vocabulary that are retained beside the job's `preserve`: the nearest"
            " and strangers, half and half. Authors: the object classes of COCO."
        ),
    )
    lora: TextLoraSpec = Field(
        default=TextLoraSpec(), description="The adapter's rank, scale and layers, in the text encoder."
    )
