"""What fine-tuned methods share: optimiser, latents, adapters."""

from typing import Annotated, Literal

from pydantic import Field

from expunge.core.specs.base import Spec
from expunge.core.specs.method import MethodSpec

Layers = Literal["xattn", "xattn_strict", "noxattn", "selfattn", "full"]
LayerNames = Annotated[list[Annotated[str, Field(pattern=r"^[A-Za-z0-9_.]{1,200}$")]], Field(max_length=1024)]


class LoraSpec(Spec):
    """The adapter that is trained and shipped (Hu et al., 2021)."""

    rank: int = Field(default=16, ge=1, le=256, description="Rank r of every adapter.")
    alpha: float | None = Field(
        default=None, gt=0, le=1024, description="Scale is alpha / rank; omitted: alpha = rank (scale 1)."
    )
    target_modules: Layers | LayerNames = Field(
        default="xattn",
        description=(
            "Which linear layers get an adapter: xattn = to_q, to_k, to_v, to_out of cross-attention (ESD-x);"
            " xattn_strict = to_k, to_v; noxattn = every other linear layer (ESD-u); selfattn; full = all"
            " linear layers; or a list of module name suffixes."
        ),
    )


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


class TrainSpec(MethodSpec):
    """What everything that is trained shares."""

    steps: int = Field(
        default=100,
        ge=1,
        le=20_000,
        description="Optimiser steps on the adapters, for each concept. The papers take 1000 at batch 1.",
    )
    learning_rate: float = Field(
        default=1e-3,
        gt=0,
        le=1,
        description="Peak rate of Adam on the adapters. The papers take 1e-5 on whole matrices.",
    )
    checkpoint_every: int = Field(default=25, ge=1, le=20_000, description="Steps between checkpoints.")


class LatentsSpec(TrainSpec):
    """What every method that asks the U-Net shares: where its latents come from."""

    batch_size: int = Field(default=4, ge=1, le=64, description="Latents a step. The papers take 1.")
    space: Literal["eps", "x0"] = Field(
        default="eps",
        description=(
            "Where errors are measured: noise (the papers' notation) or predicted x0 (the authors' AP and AGE"
            " code: early, noisy steps dominate)."
        ),
    )
    latents: Literal["buffer", "fresh"] = Field(
        default="buffer",
        description=(
            "Where z_t comes from: a buffer of whole denoising trajectories, kept and reused; or a fresh"
            " partial denoising at every step (papers)."
        ),
    )
    trajectories: int = Field(
        default=8, ge=1, le=512, description="Trajectories a concept keeps in the buffer."
    )
    refresh_every: int = Field(
        default=0,
        ge=0,
        le=20_000,
        description=(
            "Steps between redraws of the buffer with the current model; 0 = draw once, with the frozen"
            " model."
        ),
    )
    sampling_steps: int = Field(
        default=20, ge=2, le=200, description="DDIM steps of a trajectory. The papers take 50."
    )
    guidance_scale: float = Field(
        default=3.0,
        ge=1,
        le=30,
        description="Classifier-free guidance while drawing trajectories (papers: 3).",
    )
    gradient_checkpointing: bool | None = Field(
        default=None,
        description=(
            "Compute activations again in the backward pass instead of keeping them: less memory, about a"
            " third more time. Omitted: for networks of over 500 million parameters."
        ),
    )


class FineTuneSpec(LatentsSpec):
    """What every method that trains a LoRA on the U-Net shares."""

    lora: LoraSpec = Field(default=LoraSpec(), description="The adapter's rank, scale and layers.")
