"""Output-based methods with one loss: naive, ESD, All but One."""

from typing import Literal

from pydantic import Field

from expunge.core.specs.fine_tuning import FineTuneSpec, LoraSpec


class EsdSpec(FineTuneSpec):
    """ESD, Erasing Concepts from Diffusion Models (Gandikota et al., ICCV 2023)."""

    name: Literal["esd"] = "esd"
    eta: float = Field(
        default=1.0,
        ge=0,
        le=20,
        description=(
            "Negative guidance: target = eps_0 - eta (eps_c - eps_0); 1.0 is the paper's (newer public code"
            " calls this 2.0)."
        ),
    )


class NaiveSpec(FineTuneSpec):
    """The naive output-based loss (Eq. 7/13): map to a target, hold a neutral or preserved concept."""

    name: Literal["naive"] = "naive"
    eta: float = Field(
        default=1.0,
        ge=0,
        le=20,
        description=(
            "Push away from the concept: 1 is the published code's default; 0 is Eq. 7 as printed, which"
            " leaves many concepts half there."
        ),
    )
    preserve_weight: float = Field(
        default=0.1,
        ge=0,
        le=1e4,
        description="λ of Eq. 7, the weight of what must stay (published code: 0.1).",
    )


class AllButOneSpec(FineTuneSpec):
    """All but One (Hong et al., AAAI 2024), a reconstruction: edit the guidance term, hold the unconditional
    score.
    """

    name: Literal["all_but_one"] = "all_but_one"
    eta: float = Field(
        default=1.0,
        ge=0,
        le=20,
        description="Without an alternative concept (target), the guidance term becomes -eta times itself.",
    )
    drift_weight: float = Field(
        default=1.0,
        ge=0,
        le=1e4,
        description="Weight of the unconditional score's drift (not published: ours).",
    )


class CaSpec(FineTuneSpec):
    """CA, Concept Ablation (Kumari et al., ICCV 2023): the concept's prediction becomes its anchor's, on
    pictures of the anchor.
    """

    name: Literal["ca"] = "ca"
    steps: int = Field(
        default=300,
        ge=1,
        le=20_000,
        description="Optimiser steps for each concept (authors: 100 to 200 at batch 4; a style takes more).",
    )
    learning_rate: float = Field(
        default=5e-4,
        gt=0,
        le=1,
        description=(
            "Peak rate of Adam on the adapters; the anchor moves with them. The authors take 2e-6 on whole"
            " matrices."
        ),
    )
    latents: Literal["buffer"] = Field(
        default="buffer",
        description="Pictures of the anchor are drawn once and kept: there is no other choice.",
    )
    pictures: int = Field(
        default=64,
        ge=1,
        le=5000,
        description=(
            "Pictures of the anchor that the base model draws first. The authors take 1000 of 200 prompts."
        ),
    )
    anchor_network: Literal["current", "frozen"] = Field(
        default="current",
        description=(
            "Whose prediction of the anchor is the aim: the current network's with the gradient stopped"
            " (authors' code), or the base model's."
        ),
    )
    prior_weight: float = Field(
        default=1.0,
        ge=0,
        le=1e4,
        description=(
            "Weight of the ordinary denoising loss on the anchor's pictures (authors: an option, 1 for"
            " nudity); it keeps the anchor in place."
        ),
    )


class AntSpec(FineTuneSpec):
    """ANT, Auto-Steering Denoising Trajectories (Li et al., 2025): early steps keep the concept's direction,
    later steps reverse it.
    """

    name: Literal["ant"] = "ant"
    learning_rate: float = Field(
        default=5e-4,
        gt=0,
        le=1,
        description="Peak rate of Adam on the adapters (the authors' code: 5e-4 on the whole, masked U-Net).",
    )
    variant: Literal["paper", "authors_code"] = Field(
        default="paper",
        description=(
            "paper: the noisy steps are kept and the unconditional score may not drift. authors_code: the"
            " clean steps are kept, as their index counts, and the drift terms have no gradient."
        ),
    )
    eta: float = Field(
        default=1.0,
        ge=0,
        le=20,
        description="Reversed guidance of the later steps: eps_0 - eta (eps_c - eps_0).",
    )
    eta_keep: float = Field(
        default=1.0,
        ge=0,
        le=20,
        description="Guidance that the kept steps are held to; 1 = the base model's own prediction.",
    )
    keep: float = Field(
        default=0.14,
        ge=0,
        lt=1,
        description="Share of the trajectory whose direction is kept (authors: 7 of 50 steps).",
        examples=[0.14],
    )
    keep_weight: float = Field(
        default=0.1,
        ge=0,
        le=1e4,
        description=(
            "α1, the weight of the kept steps' mean beside the later steps'. The authors take 1, which leaves"
            " more of the concept on the bundled model: 10 % of the pictures of three objects."
        ),
    )
    drift_weight: float = Field(
        default=0.5,
        ge=0,
        le=1e4,
        description="α2, the weight of the unconditional score's drift (authors: 0.5).",
    )


class ScoreSpec(FineTuneSpec):
    """SCORE (Fu et al., 2025), a reconstruction, no public code was found: a critic must not tell the
    concept's pictures from its neighbours'.

    It promises no bound; what leaks to fresh critics is measured and reported.
    """

    name: Literal["score"] = "score"
    adversarial_weight: float = Field(
        default=0.1,
        ge=0,
        le=1e4,
        description="Weight of the critic's confusion, BCE against one half (not published: ours).",
    )
    upper_weight: float = Field(
        default=1.0,
        ge=0,
        le=1e4,
        description=(
            "Weight of the upper bound: the distance of the concept's prediction from a neighbour's (ours)."
        ),
    )
    eta: float = Field(
        default=1.0,
        ge=0,
        le=20,
        description="Negative guidance away from the concept in that distance's aim; 0 = none.",
    )
    trajectory_weight: float = Field(
        default=1.0,
        ge=0,
        le=1e4,
        description=(
            "Weight of trajectory consistency on neighbours, the empty prompt and early steps (ours)."
        ),
    )
    keep: float = Field(
        default=0.05,
        ge=0,
        lt=1,
        description="Share of the trajectory, from pure noise, where the concept's own prediction is kept.",
    )
    saliency: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description=(
            "Share of the adapters that are trained: those the concept's loss moves most (SalUn's γ = 0.5, by"
            " layers)."
        ),
    )
    candidates: int = Field(
        default=10, ge=1, le=2000, description="Nearest concepts that stand for its absence (C = 0)."
    )
    critic_learning_rate: float = Field(
        default=1e-3, gt=0, le=1, description="Adam rate of the critic (ours)."
    )
    leakage_pictures: int = Field(
        default=32,
        ge=0,
        le=4096,
        description=(
            "Pictures of the concept, and as many of its neighbours, of held-out prompts, off which fresh"
            " critics read the leakage at the end (report: leakage_nats); 0 = not measured."
        ),
    )


class EraseAnythingSpec(FineTuneSpec):
    """EraseAnything (Gao et al., ICML 2025), its losses as far as they apply to a U-Net: ESD and attention,
    in turn with holding and contrast.

    Not FLUX's flow target, joint attention and add_q/add_k layers; synonyms and strangers come from the
    concept space, not from a language model.
    """

    name: Literal["erase_anything"] = "erase_anything"
    steps: int = Field(
        default=120,
        ge=1,
        le=20_000,
        description="Optimiser steps for each concept, every other one of the lower turn (authors: 200).",
    )
    learning_rate: float = Field(
        default=2e-3, gt=0, le=1, description="Peak rate of Adam on the adapters (authors: 1e-3 on rank 8)."
    )
    eta: float = Field(
        default=1.0, ge=0, le=20, description="Negative guidance of the ESD term (authors: 1)."
    )
    attention_weight: float = Field(
        default=1e-3,
        ge=0,
        le=1e4,
        description="λ2, weight of the attention to the concept's tokens (authors: 1e-3).",
    )
    hold_weight: float = Field(
        default=1.0,
        ge=0,
        le=1e4,
        description="λ3, weight of holding other concepts' predictions (authors: 0.1 on their flow target).",
    )
    contrast_weight: float = Field(
        default=0.1, ge=0, le=1e4, description="λ4, weight of the reversed InfoNCE (authors: 0.1)."
    )
    temperature: float = Field(
        default=0.07, gt=0, le=100, description="τ of the reversed InfoNCE (authors: 0.07)."
    )
    strangers: int = Field(
        default=3,
        ge=1,
        le=64,
        description="K, unrelated concepts of the contrast: the farthest of the space (authors: 3).",
    )


class MaceSpec(FineTuneSpec):
    """MACE (Lu et al., CVPR 2024): refine in closed form, one LoRA a concept on masked attention, fuse in
    closed form; exact LoRA.

    Masks come from the base model's own cross-attention; the authors cut them with Grounded-SAM.
    """

    name: Literal["mace"] = "mace"
    steps: int = Field(
        default=50,
        ge=1,
        le=20_000,
        description="Optimiser steps of each concept's LoRA (authors: 50; 120 for nudity).",
    )
    lora: LoraSpec = Field(
        default=LoraSpec(rank=1, target_modules="xattn_strict"),
        description="Only the rank is read: 1, on to_k and to_v (authors).",
    )
    ridge: float = Field(
        default=0.1, gt=0, le=1e6, description="λ of both closed forms, the pull towards the old weights."
    )
    refine_preserve_scale: float = Field(
        default=0.1,
        ge=0,
        le=1e6,
        description="Weight of each held column in the refinement (ours; authors: by domain).",
    )
    fuse_preserve_scale: float = Field(
        default=0.1,
        ge=0,
        le=1e6,
        description="Weight of each held column in the fusion (ours; authors: by domain).",
    )
    latents: Literal["buffer"] = Field(
        default="buffer",
        description=(
            "The base model's pictures, whose masks are cut once, are kept: there is no other choice."
        ),
    )
    refresh_every: Literal[0] = Field(default=0, description="The base model's pictures are never redrawn.")
    space: Literal["eps"] = Field(default="eps", description="Not read: no noise is predicted.")
    importance_sampling: bool = Field(
        default=True,
        description=(
            "Train where the authors do, around timesteps 200 to 400 (they: off for nudity); false:"
            " everywhere."
        ),
    )
    hold_vocabulary: bool = Field(
        default=True,
        description=(
            "Hold the model's whole vocabulary, as the authors' caches hold COCO; false: only what `preserve`"
            " names."
        ),
    )
