"""The parameters of AGE."""

from typing import Literal

from pydantic import Field

from expunge.core.specs.concept_space import ConceptSpace
from expunge.core.specs.debias import DebiasSpec
from expunge.core.specs.fine_tuning import FineTuneSpec


class AgeSpec(FineTuneSpec):
    """AGE, Fantastic Targets for Concept Erasure (Bui et al., ICLR 2025), Eq. 14: an adversarially found
    target.
    """

    citation = "Fantastic Targets for Concept Erasure in Diffusion Models, Bui et al., ICLR 2025"
    debiases = True
    hides = True
    prunes = True

    name: Literal["age"] = "age"
    learning_rate: float = Field(
        default=2e-3,
        gt=0,
        le=1,
        description="Peak rate of Adam on the adapters. The authors take 1e-5 on whole matrices.",
    )
    variant: Literal["paper", "authors_code"] = Field(
        default="paper",
        description=(
            "paper: Eq. 14, both terms drive the search. authors_code: errors in x0 and the target detached,"
            " so that only the preservation term drives it."
        ),
    )
    eta: float = Field(
        default=1.0,
        ge=0,
        le=20,
        description=(
            "Negative guidance away from the concept in the erasing term. 0 is Eq. 14 as printed, 1 the"
            " authors' code; without it, look-alikes among the targets leave a concept half drawn. A concept"
            " with attributes takes 0."
        ),
    )
    preserve_weight: float = Field(
        default=3.0,
        ge=0,
        le=1e4,
        description="λ of Eq. 14, the weight of preserving the target (paper and authors: 1).",
    )
    candidates: int = Field(
        default=20,
        ge=2,
        le=2000,
        description=(
            "Size of the search space: the nearest concepts of the space, by their end-of-text states"
            " (authors: by all 77 states, 100 of 1000)."
        ),
    )
    concept_space: ConceptSpace = "model"
    temperature: float = Field(
        default=0.1,
        gt=0,
        le=100,
        description="τ of the Gumbel-softmax, Eq. 11 (authors: 0.1 for objects, 2 for nudity).",
    )
    hard: bool = Field(
        default=True,
        description="Straight-through one-hot, Eq. 12; false: a soft mixture (authors' choice for artists).",
    )
    search_learning_rate: float = Field(
        default=1e-2, gt=0, le=10, description="Adam rate of the logits π (authors: 1e-2)."
    )
    search_every: int = Field(
        default=2, ge=1, le=1000, description="Weight steps for each search step (authors: 1)."
    )
    debias: DebiasSpec = Field(
        default=DebiasSpec(rounds=8, images=16, step_size=1.0),
        description="How concepts with attributes are spread over them (Eq. 17; the balancing is ours).",
    )
