"""The parameters of AP."""

from typing import Literal

from pydantic import Field

from expunge.core.specs.concept_space import ConceptSpace
from expunge.core.specs.fine_tuning import OutputSpec
from expunge.core.specs.search import Candidates, Hard, SearchEvery, SearchLearningRate


class ApSpec(OutputSpec):
    """AP, Adversarial Preservation (Bui et al., NeurIPS 2024), Eq. 9-12: preserves the concepts that would
    suffer most.
    """

    citation = "Erasing Undesirable Concepts with Adversarial Preservation, Bui et al., NeurIPS 2024"
    hides = True
    prunes = True

    name: Literal["ap"] = "ap"
    variant: Literal["paper", "authors_code"] = Field(
        default="paper",
        description=(
            "paper: the search maximises the whole difference. authors_code: errors are measured in x0,"
            " and the gradient flows through the trained model alone."
        ),
    )
    eta: float = Field(
        default=1.0,
        ge=0,
        le=20,
        description="Negative guidance of the erasing term. 0 is Eq. 9 as printed, 1 the authors' code.",
    )
    preserve_weight: float = Field(default=1.0, ge=0, le=1e4, description="λ of Eq. 9 (authors: 1).")
    search: Literal["gumbel", "pgd"] = Field(
        default="gumbel",
        description=(
            "gumbel: over the candidates, Eq. 10-12. pgd: normalised gradient ascent on a continuous text"
            " state that starts at the concept, at `search_learning_rate`; nothing is projected."
        ),
    )
    candidates: Candidates = 20
    concept_space: ConceptSpace = "model"
    temperature: float = Field(
        default=2.0, gt=0, le=100, description="τ of the Gumbel-softmax, Eq. 11 (authors: 2)."
    )
    hard: Hard = True
    search_learning_rate: SearchLearningRate = 1e-2
    search_every: SearchEvery = 2
