"""The parameters of concept inversion."""

from typing import Literal

from pydantic import Field

from expunge.core.specs.attacks.attack import LearningAttackSpec
from expunge.core.specs.fields import Text


class InversionAttackSpec(LearningAttackSpec):
    """Concept inversion (Pham et al., ICLR 2024): textual inversion against the sanitized model. A word is
    learned from the base model's pictures of the concept.
    """

    citation = (
        "Circumventing Concept Erasure Methods For Text-to-Image Generative Models, Pham et al., ICLR 2024"
    )
    departure = "several vectors a word, Adam on them alone"

    name: Literal["inversion"] = "inversion"
    vectors: int = Field(default=4, ge=1, le=16, description="Embeddings of the learned word (paper: 1).")
    learning_rate: float = Field(default=2e-2, gt=0, le=1, description="Learning rate of Adam.")
    guidance_scale: float | None = Field(
        default=3.0,
        ge=1,
        le=30,
        description=(
            "Guidance that the learned word is drawn with; null: the evaluation's. At a prompt's usual"
            " guidance a learned word is overdrawn, and the attack looks weaker than it is."
        ),
    )
    start: Text = Field(
        default="thing",
        description="The word whose embedding the first attempt starts from; others start at other concepts.",
    )
