"""The parameters of the bypass."""

from typing import Literal

from expunge.core.specs.attacks.attack import AttackSpec


class BypassSpec(AttackSpec):
    """What anybody can do who has the delta's file: leave it off. A LoRA is unloaded, a stock text encoder
    loaded, the zeros of a mask filled from the base model.
    """

    citation = "no paper: it follows from the delta's format"
    needs = "delta"
    decides = False

    name: Literal["bypass"] = "bypass"
