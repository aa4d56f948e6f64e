"""The parameters of MACE."""

from typing import Literal

from pydantic import Field

from expunge.core.specs.fine_tuning import FineTuneSpec, LoraSpec


class MaceSpec(FineTuneSpec):
    """MACE (Lu et al., CVPR 2024): refines in closed form, trains one LoRA per concept on masked attention,
    and fuses them in closed form; delivered as an exact LoRA.

    Masks come from the base model's own cross-attention; the authors use Grounded-SAM.
    """

    citation = "MACE: Mass Concept Erasure in Diffusion Models, Lu et al., CVPR 2024"
    departure = "masks from cross-attention instead of a segmenter"

    name: Literal["mace"] = "mace"
    steps: int = Field(
        default=50,
        ge=1,
        le=20_000,
        description="Optimiser steps of each concept's LoRA (authors: 50; 120 for nudity).",
    )
    lora: LoraSpec = Field(
        default=LoraSpec(rank=1, target_modules="xattn_strict"),
        description="Only the rank is used: 1, on to_k and to_v (authors).",
    )
    ridge: float = Field(
        default=0.1,
        gt=0,
        le=1e6,
        description="λ of both closed forms, the weight of staying close to the old weights.",
    )
    refine_preserve_scale: float = Field(
        default=0.1,
        ge=0,
        le=1e6,
        description=(
            "Weight of each preserved column in the refinement (ours; the authors set it by domain)."
        ),
    )
    fuse_preserve_scale: float = Field(
        default=0.1,
        ge=0,
        le=1e6,
        description="Weight of each preserved column in the fusion (ours; the authors set it by domain).",
    )
    latents: Literal["buffer"] = Field(
        default="buffer",
        description=(
            "The base model's pictures are kept, and their masks cut once; there is no other choice."
        ),
    )
    refresh_every: Literal[0] = Field(default=0, description="The base model's pictures are never redrawn.")
    space: Literal["eps"] = Field(default="eps", description="Not used: no noise is predicted.")
    importance_sampling: bool = Field(
        default=True,
        description=(
            "Train mostly at timesteps 200 to 400, as the authors do (they switch it off for nudity)."
            " false: at all timesteps."
        ),
    )
    hold_vocabulary: bool = Field(
        default=True,
        description=(
            "Preserve the model's whole vocabulary, as the authors' caches preserve COCO. false: only what"
            " `preserve` names."
        ),
    )
