"""The parameters of AGE."""

from typing import Literal

from pydantic import Field

from expunge.core.specs.concept_space import ConceptSpace
from expunge.core.specs.debias import DebiasSpec
from expunge.core.specs.fine_tuning import OutputSpec
from expunge.core.specs.search import Candidates, Hard, SearchEvery, SearchLearningRate


class AgeSpec(OutputSpec):
    """AGE, Fantastic Targets for Concept Erasure (Bui et al., ICLR 2025), Eq. 14: maps the concept to an
    adversarially found target and preserves that target.
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
        description="Peak learning rate of Adam on the adapters. The authors use 1e-5 on whole matrices.",
    )
    variant: Literal["paper", "authors_code"] = Field(
        default="paper",
        description=(
            "paper: Eq. 14, both terms drive the search. authors_code: errors are measured in x0 and the"
            " target is detached, so that only the preservation term drives the search."
        ),
    )
    eta: float = Field(
        default=1.0,
        ge=0,
        le=20,
        description=(
            "Negative guidance away from the concept in the erasing term. 0 is Eq. 14 as printed, 1 the"
            " authors' code. With 0, targets that look like the concept leave it half drawn. For a concept"
            " with attributes it is always 0."
        ),
    )
    preserve_weight: float = Field(
        default=3.0,
        ge=0,
        le=1e4,
        description="λ of Eq. 14, the weight of preserving the target (paper and authors: 1).",
    )
    candidates: Candidates = 20
    concept_space: ConceptSpace = "model"
    temperature: float = Field(
        default=0.1,
        gt=0,
        le=100,
        description="τ of the Gumbel-softmax, Eq. 11 (authors: 0.1 for objects, 2 for nudity).",
    )
    hard: Hard = True
    search_learning_rate: SearchLearningRate = 1e-2
    search_every: SearchEvery = 2
    debias: DebiasSpec = Field(
        default=DebiasSpec(rounds=8, images=16, step_size=1.0),
        description="How concepts with attributes are spread over them (Eq. 17; the balancing is ours).",
    )
