"""The parameters of TIME."""

from typing import Literal

from pydantic import Field

from expunge.core.specs.fields import TextOrEmpty
from expunge.core.specs.method import MethodSpec


class TimeSpec(MethodSpec):
    """TIME (Orgad et al., ICCV 2023): edits to_v (and to_k) in closed form, token by token; delivered as its
    exact LoRA.

    Its alignment of tokens for erasing is a reconstruction.
    """

    citation = "Editing Implicit Assumptions in Text-to-Image Diffusion Models, Orgad et al., ICCV 2023"
    departure = "its alignment for erasing is a reconstruction"

    name: Literal["time"] = "time"
    guide: TextOrEmpty | None = Field(
        default=None,
        description=(
            "The target of concepts that name none. '': the prompt without the concept. Omitted: the same,"
            " but a style becomes the nearest other style."
        ),
    )
    ridge: float = Field(
        default=1000.0,
        gt=0,
        le=1e6,
        description=(
            "λ of Eq. 3, the weight of staying close to the old weights. With 0.1 (the authors' value)"
            " nothing is preserved where the token columns span the text space; 1000 was chosen by trial on"
            " the bundled model."
        ),
    )
    with_to_k: bool = Field(
        default=True,
        description="Edit the keys too (the authors' option `with_to_k`, which is off by default there).",
    )
