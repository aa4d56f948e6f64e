"""A cheap look for planted triggers."""

from pydantic import Field

from expunge.core.specs.base import Spec
from expunge.core.specs.fields import Text


class TriggerScanSpec(Spec):
    """Look for words that call an erased concept up, and for weights of unusual size."""

    words: int = Field(
        default=512,
        ge=16,
        le=100_000,
        description=(
            "Words of the model's tokenizer that are tried for each erased concept, evenly spread over it. A"
            " hundred cost about as much as eight pictures of each model."
        ),
    )
    suspects: list[Text] = Field(
        default=[], max_length=256, description="Words or phrases to try beside them, as you suspect them."
    )
