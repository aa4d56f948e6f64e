"""The parameters of AdvUnlearn."""

from typing import Literal

from pydantic import Field

from expunge.core.specs.fine_tuning import LatentsSpec, TextLoraSpec


class AdvUnlearnSpec(LatentsSpec):
    """AdvUnlearn (Zhang et al., NeurIPS 2024): ESD through the text encoder, trained against an adversarial
    prefix. Loading the stock text encoder undoes it.
    """

    citation = (
        "Defensive Unlearning with Adversarial Training for Robust Concept Erasure in Diffusion Models, "
        "Zhang et al., NeurIPS 2024"
    )
    delta = "text_encoder_lora"
    architectures = ("stable_diffusion",)  # of two encoders either alone leaves the concept in the other

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
        description="Share of the steps before the attack begins (authors: 200 of 1000 steps).",
    )
    attack_steps: int = Field(
        default=8,
        ge=0,
        le=1000,
        description=(
            "Sign-gradient steps on the prefix before each weight step, from a random token (authors: 30,"
            " from the latest attack). 0: no attack."
        ),
    )
    attack_learning_rate: float = Field(
        default=0.1,
        gt=0,
        le=10,
        description=(
            "Size of a sign step, as a multiple of the root mean square of the token embeddings (authors:"
            " 1e-3, absolute)."
        ),
    )
    prefix_tokens: int = Field(
        default=1, ge=1, le=16, description="Adversarial tokens before the prompt's own (authors: 1)."
    )
    retain_weight: float = Field(
        default=1.0, ge=0, le=1e4, description="Weight of the retain loss (authors: 0.3 or 1)."
    )
    retain_batch: int = Field(default=4, ge=1, le=64, description="Retained prompts per step (authors: 5).")
    retain_concepts: int = Field(
        default=20,
        ge=1,
        le=2000,
        description=(
            "Number of concepts of the model's vocabulary to retain beside the job's `preserve`: half"
            " nearest neighbours, half random others. Authors: the object classes of COCO."
        ),
    )
    lora: TextLoraSpec = Field(
        default=TextLoraSpec(), description="The adapter's rank, scale and layers, in the text encoder."
    )
