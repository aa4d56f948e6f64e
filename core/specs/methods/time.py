"""The parameters of TIME."""

from typing import Literal

from pydantic import Field

from expunge.core.specs.fields import TextOrEmpty
from expunge.core.specs.method import MethodSpec


class TimeSpec(MethodSpec):
    """TIME (Orgad et al., ICCV 2023): closed form on to_v, token by token; exact LoRA.

    The alignment for erasing is a reconstruction.
    """

    citation = "Editing Implicit Assumptions in Text-to-Image Diffusion Models, Orgad et al., ICCV 2023"
    departure = "its alignment for erasing is a reconstruction"

    name: Literal["time"] = "time"
    guide: TextOrEmpty | None = Field(
        default=None,
        description=(
            "Target when a concept names none. Omitted or '': the prompt without it; omitted, a style becomes"
            " the nearest other style."
        ),
    )
    ridge: float = Field(
        default=1000.0,
        gt=0,
        le=1e6,
        description=(
            "λ of Eq. 3, the pull towards the old weights. The authors take 0.1, which nothing outlives where"
            " the token columns span the text space; 1000 was chosen by trial on the bundled model."
        ),
    )
    with_to_k: bool = Field(
        default=True, description="Edit the keys too (the authors' option `with_to_k`, off there)."
    )
