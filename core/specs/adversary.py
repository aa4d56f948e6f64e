"""The parameters of an adversary in the loop."""

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from expunge.core.specs.base import Spec

PICTURES = 16  # of a concept, by the base model, which a search for words noises


class AdversarySpec(Spec):
    """An adversary that a method is trained against: once the method's own steps are done, rounds follow in
    which what brings the concept back is searched for on the model as it stands, and then stands in the
    concept's place in the method's own loss. STEREO's first stage (Srivatsan et al., CVPR 2025) and
    AdvUnlearn's loop (Zhang et al., NeurIPS 2024), for any output-based method.
    """

    of_words: ClassVar[tuple[str, ...]] = (
        "restarts",
        "vectors",
        "search_steps",
        "search_batch",
        "search_learning_rate",
        "own_share",
    )
    of_noise: ClassVar[tuple[str, ...]] = ("radius", "noise_steps")

    kind: Literal["embedding", "tokens", "noise"] = Field(
        default="embedding",
        description=(
            "What is searched. embedding: a word's embeddings in the concept's place, as textual inversion"
            " finds them. tokens: tokens of the vocabulary before the concept's prompts. noise: a shift of"
            " the noisy latents under the concept's own prompts, for each batch anew."
        ),
    )
    rounds: int = Field(default=4, ge=1, le=100, description="Rounds of search and training.")
    restarts: int = Field(
        default=2,
        ge=1,
        le=16,
        description="Searches in a round, each from another start. All that was found is trained on.",
    )
    vectors: int = Field(
        default=4,
        ge=1,
        le=16,
        description="Embeddings of a word, or tokens before a prompt.",
    )
    search_steps: int = Field(default=80, ge=1, le=20_000, description="Steps of each search.")
    search_batch: int = Field(default=8, ge=1, le=64, description="Latents per step and restart.")
    search_learning_rate: float = Field(
        default=2e-2,
        gt=0,
        le=1,
        description="Learning rate of Adam on what is searched.",
    )
    steps: int = Field(
        default=80, ge=1, le=20_000, description="Optimiser steps for each concept in a round."
    )
    learning_rate_share: float = Field(
        default=0.5,
        gt=0,
        le=10,
        description="Learning rate in the rounds, as a share of the method's own.",
    )
    own_share: float = Field(
        default=0.34,
        ge=0,
        le=1,
        description="Share of the rows in which the concept's own prompts stand, so that they stay erased.",
    )
    retain_weight: float = Field(
        default=3.0,
        ge=0,
        le=1e4,
        description="Weight of the base model's predictions of retained concepts and the empty prompt.",
    )
    retain_concepts: int = Field(
        default=24,
        ge=1,
        le=2000,
        description=(
            "Number of concepts of the model's vocabulary to retain in the rounds, beside the job's"
            " `preserve` and the empty prompt: half nearest neighbours, half random others."
        ),
    )
    radius: float = Field(
        default=0.1, gt=0, le=1, description="Of noise: how large a shift may be, as a share of the latents."
    )
    noise_steps: int = Field(
        default=4, ge=1, le=1000, description="Of noise: gradient steps of the search, before each step."
    )

    @model_validator(mode="after")
    def nothing_ignored(self) -> Self:
        unread = self.of_words if self.kind == "noise" else self.of_noise
        for name in unread:
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name}: not used where the adversary searches {self.kind}: omit it")
        return self
