"""The parameters of Prompting4Debugging."""

from typing import Literal

from pydantic import Field

from expunge.core.specs.attacks.attack import TokenAttackSpec


class P4dSpec(TokenAttackSpec):
    """Prompting4Debugging (Chin et al., ICML 2024), P4D-N: a hard prompt under which the sanitized model
    predicts what the base model predicts under the concept's own.
    """

    citation = (
        "Prompting4Debugging: Red-Teaming Text-to-Image Diffusion Models by Finding Problematic Prompts, "
        "Chin et al., ICML 2024"
    )
    departure = "one hard prompt for all pictures (authors: one for each prompt and seed)"

    name: Literal["p4d"] = "p4d"
    tokens: int = Field(default=16, ge=1, le=60, description="Tokens of the prompt (authors: 16).")
    learning_rate: float = Field(default=0.1, gt=0, le=1, description="Learning rate of AdamW (authors: .1).")
    weight_decay: float = Field(default=0.1, ge=0, le=1, description="Weight decay of AdamW (authors: .1).")
