"""What the service must know of a method, beside its parameters."""

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from expunge.core.specs.base import Spec

RECONSTRUCTION = "a reconstruction, no public code was found"


class Published(Spec):
    """The parameters of something that was published."""

    citation: ClassVar[str]
    """Title, authors, place and year."""
    departure: ClassVar[str | None] = None
    """How ours departs from it, where a reader of the result must know."""
    reconstruction: ClassVar[bool] = False
    """Whether ours was made from the text alone: no public code was found."""

    @classmethod
    def cited(cls) -> str:
        """The source, and how ours differs from it."""
        notes = [cls.citation, cls.departure, RECONSTRUCTION if cls.reconstruction else None]
        return "; ".join(note for note in notes if note)


class MethodSpec(Published):
    """A method's parameters. What is true of the method itself stands in class variables."""

    if TYPE_CHECKING:
        name: str = ""  # each method's own literal, by which the specs tell methods apart

    delta: ClassVar[Literal["lora", "text_encoder_lora", "sparse_mask"]] = "lora"
    """What it delivers: a LoRA on the denoising network or on the text encoder, or a mask of zeros."""
    architectures: ClassVar[tuple[str, ...]] = ("stable_diffusion", "stable_diffusion_xl")
    """The files of core/models that it works on."""
    debiases: ClassVar[bool] = False
    """Whether it can spread a concept over attributes (Eq. 17)."""
    hides: ClassVar[bool] = False
    """Whether a hide job may take it, as the erasing term of Eq. 15."""
    prunes: ClassVar[bool] = False
    """Whether `prune` may take its loss."""

    @classmethod
    def refusal(cls, architecture: str) -> str | None:
        """Why it does not work on an architecture; None where it does."""
        if architecture in cls.architectures:
            return None
        return f"works on {', '.join(cls.architectures)}, not on {architecture}"

    @classmethod
    def stackable(cls) -> bool:
        """Whether its delta can be summed with others: only LoRAs on the network can."""
        return cls.delta == "lora"


def by_name(value: Any) -> Any:
    """A bare name stands for the method with its defaults."""
    return {"name": value} if isinstance(value, str) else value
