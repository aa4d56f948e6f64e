"""What all attacks share."""

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from expunge.core.specs.method import Published

Needs = Literal["prompts", "text encoder", "weights", "delta"]


class AttackSpec(Published):
    """An attack's budget. It is run against the sanitized model, against the base model (the most that it
    can reach) and against a random edit of the same size (what any damage leaves).
    """

    if TYPE_CHECKING:
        name: str = ""  # each attack's own literal

    needs: ClassVar[Needs]
    """What the attacker must have of the sanitized model."""
    decides: ClassVar[bool] = True
    """Whether the verdict rests on it: not where the attacker needs the base model, or trains the concept."""
    version: ClassVar[int] = 1
    """Grows with each change that makes the attack another one at the same budget: a policy then attacks
    what is published anew (core/specs/attacks/suite.py).
    """

    images: int = Field(
        default=16,
        ge=2,
        le=200,
        description="Pictures that each attempt is judged on, with prompts and seeds it was not made with.",
    )
    restarts: int = Field(
        default=1, ge=1, le=10, description="Attempts, each from other random numbers; the best one counts."
    )
    seed: int = Field(default=0, ge=0, lt=2**31, description="First seed of the attempts.")

    def drawn(self) -> int:
        """Pictures that one attempt draws."""
        return self.images

    def needs_others(self) -> bool:
        """Whether it needs concepts that are not erased."""
        return False

    def searched(self) -> int:
        """Optimiser steps of one attempt."""
        return 0


class LearningAttackSpec(AttackSpec):
    """An attack that learns from the base model's pictures of the concept."""

    needs: ClassVar[Needs] = "weights"

    steps: int = Field(default=300, ge=1, le=20_000, description="Optimiser steps of an attempt.")
    batch_size: int = Field(default=8, ge=1, le=64, description="Noised pictures per step.")
    lessons: int = Field(
        default=16,
        ge=1,
        le=200,
        description="Pictures of the concept, drawn by the base model, that the attack learns from.",
    )

    def drawn(self) -> int:
        return self.images + self.lessons

    def searched(self) -> int:
        return self.steps


class TokenAttackSpec(LearningAttackSpec):
    """An attack that searches for tokens of the model's own vocabulary."""

    tokens: int = Field(default=3, ge=1, le=60, description="Tokens to find.")
