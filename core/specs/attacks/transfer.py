"""The parameters of the transferred word."""

from typing import ClassVar, Literal

from expunge.core.specs.attacks.attack import Needs
from expunge.core.specs.attacks.inversion import InversionAttackSpec


class TransferSpec(InversionAttackSpec):
    """A word that was learned on the base model, tried on the sanitized one: no gradient passes through the
    defence, so none can be masked by it.
    """

    departure = "learned on the base model, judged on the sanitized one"
    needs: ClassVar[Needs] = "prompts"

    name: Literal["transfer"] = "transfer"  # type: ignore[assignment]
