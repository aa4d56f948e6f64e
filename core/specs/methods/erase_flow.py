"""The parameters of EraseFlow."""

from typing import Literal

from pydantic import Field

from expunge.core.specs.fine_tuning import FineTuneSpec


class EraseFlowSpec(FineTuneSpec):
    """EraseFlow (Kusumba et al., NeurIPS 2025): trains the concept's prompts to draw whole paths of an
    anchor, as likely as trajectory balance wants them.

    The anchor is the concept's target, or the empty prompt. `latents`: fresh draws paths at every step by
    the model as it is, as the authors do; buffer keeps the frozen model's.
    """

    citation = (
        "EraseFlow: Learning Concept Erasure Policies via GFlowNet-Driven Alignment, Kusumba et al., "
        "NeurIPS 2025"
    )

    name: Literal["erase_flow"] = "erase_flow"
    batch_size: int = Field(default=4, ge=1, le=64, description="Paths per step (authors: 1).")
    space: Literal["eps"] = Field(
        default="eps", description="Nothing to choose: what is balanced are likelihoods, not errors."
    )
    drawn_steps: int = Field(
        default=4,
        ge=0,
        le=200,
        description=(
            "Denoising steps of a path's first four fifths that enter the balance, drawn anew each time"
            " (authors: 10 of 40). The last fifth enters whole."
        ),
    )
    log_reward: float = Field(
        default=2.5,
        ge=-100,
        le=100,
        description="log β, the constant reward of a path of the anchor (authors: 2.5).",
    )
    partition_learning_rate: float = Field(
        default=3e-4,
        ge=0,
        le=1,
        description="Learning rate of Adam on the log partition function, a number for each concept.",
    )
