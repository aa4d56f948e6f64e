"""The parameters of relearning."""

from typing import Literal

from pydantic import Field

from expunge.core.specs.attacks.attack import LearningAttackSpec


class RelearnSpec(LearningAttackSpec):
    """Fine-tuning a small LoRA beside the sanitized model: on pictures of the concept, or on unrelated ones
    (concept resurgence, Suriyakumar et al., 2024). Judged after several numbers of steps.
    """

    citation = (
        "Unstable Unlearning: The Hidden Risk of Concept Resurgence in Diffusion Models, Suriyakumar et al., "
        "arXiv 2410.08074; Erased or Dormant? Rethinking Concept Erasure Through Reversibility, arXiv "
        "2505.16174"
    )
    decides = False

    name: Literal["relearn"] = "relearn"
    on: Literal["concept", "unrelated"] = Field(
        default="concept", description="What the LoRA is trained on: the concept, or other concepts."
    )
    trained_on: Literal["sanitized", "base"] = Field(
        default="sanitized",
        description=(
            "The model that the LoRA is trained beside; base: a foreign LoRA, trained on the base model and"
            " merged into the sanitized one."
        ),
    )
    steps: int = Field(default=200, ge=1, le=20_000, description="Optimiser steps.")
    judged_after: list[int] = Field(
        default=[10, 50],
        max_length=8,
        description="Steps after which it is judged too; larger numbers than `steps` are left out.",
    )
    rank: int = Field(default=4, ge=1, le=128, description="Rank of the LoRA, on cross-attention.")
    learning_rate: float = Field(default=1e-3, gt=0, le=1, description="Learning rate of Adam.")

    def drawn(self) -> int:
        return self.lessons + self.images * (1 + sum(step < self.steps for step in self.judged_after))

    def needs_others(self) -> bool:
        return self.on == "unrelated"
