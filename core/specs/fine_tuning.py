"""What fine-tuned methods share: optimiser, latents, adapters."""

from typing import Annotated, Literal

from pydantic import Field

from expunge.core.specs.adversary import AdversarySpec
from expunge.core.specs.base import Spec
from expunge.core.specs.method import MethodSpec

Layers = Literal["xattn", "xattn_strict", "noxattn", "selfattn", "full"]
LayerNames = Annotated[list[Annotated[str, Field(pattern=r"^[A-Za-z0-9_.]{1,200}$")]], Field(max_length=1024)]


class LoraSpec(Spec):
    """The LoRA adapter that is trained and delivered (Hu et al., 2021)."""

    rank: int = Field(default=16, ge=1, le=256, description="Rank r of every adapter.")
    alpha: float | None = Field(
        default=None,
        gt=0,
        le=1024,
        description="The adapter's scale is alpha / rank. Omitted: alpha = rank, a scale of 1.",
    )
    target_modules: Layers | LayerNames = Field(
        default="xattn",
        description=(
            "Which layers get an adapter. xattn: to_q, to_k, to_v and to_out of cross-attention (ESD-x)."
            " xattn_strict: to_k and to_v of cross-attention. noxattn: every linear and convolution layer"
            " outside cross-attention (ESD-u). selfattn: self-attention. full: every linear and convolution"
            " layer. Or a list of module name suffixes."
        ),
    )


class TextLoraSpec(Spec):
    """The LoRA adapter on the text encoder that is trained and delivered."""

    rank: int = Field(default=16, ge=1, le=256, description="Rank r of every adapter.")
    alpha: float | None = Field(
        default=None,
        gt=0,
        le=1024,
        description="The adapter's scale is alpha / rank. Omitted: alpha = rank, a scale of 1.",
    )
    target_modules: Literal["attention", "mlp", "full"] | LayerNames = Field(
        default="full",
        description=(
            "Which linear layers of the text encoder get an adapter. attention: the q, k, v and out"
            " projections. mlp: the feed-forward layers. full: both (AdvUnlearn's text_encoder_full without"
            " embeddings and norms). Or a list of module name suffixes."
        ),
    )


class TrainSpec(MethodSpec):
    """What all methods that train share."""

    steps: int = Field(
        default=100,
        ge=1,
        le=20_000,
        description="Optimiser steps for each concept. The papers use 1000 at batch size 1.",
    )
    learning_rate: float = Field(
        default=1e-3,
        gt=0,
        le=1,
        description="Peak learning rate of Adam on the adapters. The papers use 1e-5 on whole matrices.",
    )
    checkpoint_every: int = Field(default=25, ge=1, le=20_000, description="Steps between checkpoints.")
    diverse_prompts: bool = Field(
        default=False,
        exclude_if=lambda asked: not asked,  # a new field changes no delta's bytes
        description=(
            "Train in more wordings: each concept, its target and what is held also in scenes ('a church"
            " under a tree'), and the concept by a definition that does not name it, where the model's text"
            " encoder takes that for it. None of them is among the wordings of an evaluation."
        ),
    )


class LatentsSpec(TrainSpec):
    """What all methods that train on the denoising network's predictions share: where latents come from."""

    batch_size: int = Field(default=4, ge=1, le=64, description="Latents per step. The papers use 1.")
    space: Literal["eps", "x0"] = Field(
        default="eps",
        description=(
            "What errors are measured in. eps: the network's own prediction (noise, in most models), as in"
            " the papers. x0: the predicted picture, as in the authors' code of AP and AGE; there the early,"
            " noisy steps dominate."
        ),
    )
    latents: Literal["buffer", "fresh"] = Field(
        default="buffer",
        description=(
            "Where noisy latents come from. buffer: whole denoising trajectories, kept and reused. fresh:"
            " a new partial denoising at every step, as in the papers."
        ),
    )
    trajectories: int = Field(
        default=8, ge=1, le=512, description="Trajectories kept in the buffer for each concept."
    )
    refresh_every: int = Field(
        default=0,
        ge=0,
        le=20_000,
        description=(
            "Steps between redraws of the buffer with the current model. 0: it is drawn once, with the"
            " frozen model."
        ),
    )
    sampling_steps: int = Field(
        default=20, ge=2, le=200, description="DDIM steps of a trajectory. The papers use 50."
    )
    guidance_scale: float = Field(
        default=3.0,
        ge=1,
        le=30,
        description="Classifier-free guidance of the trajectories (papers: 3).",
    )
    gradient_checkpointing: bool | None = Field(
        default=None,
        description=(
            "Recompute activations in the backward pass instead of keeping them: less memory, about a"
            " third more time. Omitted: only for networks of more than 500 million parameters."
        ),
    )


class FineTuneSpec(LatentsSpec):
    """What all methods that train a LoRA on the denoising network share."""

    lora: LoraSpec = Field(default=LoraSpec(), description="The adapter's rank, scale and layers.")


class OutputSpec(FineTuneSpec):
    """What the output-based methods share: their loss is on the network's predictions of the concept."""

    adversary: AdversarySpec | None = Field(
        default=None,
        exclude_if=lambda adversary: adversary is None,  # a new field changes no delta's bytes
        description=(
            "Goes on against an adversary once the method's own steps are done: rounds of searching for what"
            " brings the concept back, and training against all that was found. Omitted or null: none."
        ),
    )
