"""The parameters of AP."""

from typing import Literal

from pydantic import Field

from expunge.core.specs.concept_space import ConceptSpace
from expunge.core.specs.fine_tuning import FineTuneSpec


class ApSpec(FineTuneSpec):
    """AP, Adversarial Preservation (Bui et al., NeurIPS 2024), Eq. 9-12: hold the concepts that would suffer
    most.
    """

    citation = "Erasing Undesirable Concepts with Adversarial Preservation, Bui et al., NeurIPS 2024"
    hides = True
    prunes = True

    name: Literal["ap"] = "ap"
    variant: Literal["paper", "authors_code"] = Field(
        default="paper",
        description=(
            "paper: the search climbs the whole difference. authors_code: errors in x0, gradient through the"
            " trained model alone."
        ),
    )
    eta: float = Field(
        default=1.0,
        ge=0,
        le=20,
        description="Negative guidance of the erasing term; 0 is Eq. 9 as printed, 1 the authors' code.",
    )
    preserve_weight: float = Field(default=1.0, ge=0, le=1e4, description="λ of Eq. 9 (authors: 1).")
    search: Literal["gumbel", "pgd"] = Field(
        default="gumbel",
        description=(
            "gumbel: over the candidates, Eq. 10-12. pgd: normalised gradient ascent on a continuous text"
            " state that starts at the concept; nothing is projected."
        ),
    )
    candidates: int = Field(
        default=20,
        ge=2,
        le=2000,
        description=(
            "Size of the search space: the nearest concepts, by their end-of-text states (authors: by all 77"
            " states, 100 centres of 1000)."
        ),
    )
    concept_space: ConceptSpace = "model"
    temperature: float = Field(
        default=2.0, gt=0, le=100, description="τ of the Gumbel-softmax, Eq. 11 (authors: 2)."
    )
    hard: bool = Field(default=True, description="Straight-through one-hot, Eq. 12; false: a soft mixture.")
    search_learning_rate: float = Field(
        default=1e-2,
        gt=0,
        le=10,
        description="Rate of the search: Adam on π (authors: 1e-2), or of the ascent.",
    )
    search_every: int = Field(
        default=2, ge=1, le=1000, description="Weight steps for each search step (authors: 1)."
    )
