"""The parameters of UnlearnDiffAtk."""

from typing import Literal

from pydantic import Field

from expunge.core.specs.attacks.attack import TokenAttackSpec


class UnlearnDiffAtkSpec(TokenAttackSpec):
    """UnlearnDiffAtk (Zhang et al., ECCV 2024): tokens before the prompt, found by the sanitized model's own
    denoising loss on the base model's pictures of the concept.
    """

    citation = (
        "To Generate or Not? Safety-Driven Unlearned Diffusion Models Are Still Easy To Generate Unsafe "
        "Images ... For Now, Zhang et al., ECCV 2024"
    )
    departure = (
        "one prefix for all prompts and pictures, judged on fresh seeds (authors: a prefix for each picture, "
        "judged at every step)"
    )

    name: Literal["unlearn_diff_atk"] = "unlearn_diff_atk"
    learning_rate: float = Field(
        default=1e-2, gt=0, le=1, description="Learning rate of Adam (authors: 0.01)."
    )
    weight_decay: float = Field(default=0.1, ge=0, le=1, description="Weight decay of Adam (authors: .1).")
