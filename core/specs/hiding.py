"""The spec of a hide job: hide and recover (KPOP)."""

import base64
import binascii
from typing import Annotated, Any, Self

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from expunge.core.specs.evaluation import EvaluationSpec, Thresholds
from expunge.core.specs.jobs import EraseSpec
from expunge.core.specs.method import Published, by_name
from expunge.core.specs.methods import METHODS, HidingMethod
from expunge.core.specs.methods.age import AgeSpec


def public_key(value: str) -> str:
    """An X25519 public key in base64, as it is. Raises: ValueError."""
    try:
        raw = base64.b64decode(value, validate=True)
        # Points of low order have no shared secret
        X25519PrivateKey.generate().exchange(X25519PublicKey.from_public_bytes(raw))
    except (binascii.Error, ValueError) as error:
        raise ValueError(
            "is not an X25519 public key: give its 32 bytes in base64; 'expunge key-pair' makes a pair"
        ) from error
    return value


PublicKey = Annotated[
    str, AfterValidator(public_key), Field(json_schema_extra={"contentEncoding": "base64", "maxLength": 44})
]


class RecoverySpec(Published):
    """How the recovery key is learned (KPOP, Eq. 15 and 16). A reconstruction: no public code was found."""

    citation = (
        "Hiding and Recovering Knowledge in Text-to-Image Diffusion Models via Learnable Prompts, Bui et al.,"
        " ICLR 2025 Delta workshop"
    )
    reconstruction = True

    weight: float = Field(
        default=0.1,
        gt=0,
        le=1e4,
        description=(
            "λ of Eq. 15, the weight of the recovery term while the network learns to hide (authors' file"
            " names: 0.1)."
        ),
    )
    length: int = Field(
        default=10,
        ge=1,
        le=64,
        description="Number of text states that the key appends to a prompt's (authors' file names: 10).",
    )
    radius: float = Field(
        default=1.0,
        gt=0,
        le=100,
        description=(
            "ρ of Eq. 16: the largest distance of the key from c_e, relative to the norm of c_e (ours; the"
            " authors' value is not known)."
        ),
    )
    start: float = Field(
        default=0.7,
        ge=0,
        le=100,
        description=(
            "Distance from c_e at which the key starts, in a direction drawn from the seed; at most the"
            " radius. A key that starts far away is easier to tell from the concept itself, so that more"
            " stays hidden without it (ours)."
        ),
    )
    steps: int = Field(
        default=1,
        ge=1,
        le=100,
        description=(
            "Steps of projected gradient descent on the key (Eq. 16) before each step on the network (ours)."
        ),
    )
    learning_rate: float = Field(
        default=2e-2, gt=0, le=10, description="Learning rate of Adam on the key (ours)."
    )

    @model_validator(mode="after")
    def starts_inside(self) -> Self:
        if self.start > self.radius:
            raise ValueError(
                f"start: {self.start:g} is more than the radius {self.radius:g}: lower start, or raise radius"
            )
        return self


ETA = 2.0
"""AGE's eta in a hide job unless it is given: the recovery term pulls towards the concept, so that the
erasing term must push harder.
"""


def as_hiding(value: Any) -> Any:
    """A method by name or with parameters; AGE with its eta of hide jobs unless it is given."""
    value = by_name(value)
    return {"eta": ETA, **value} if isinstance(value, dict) and value.get("name") == "age" else value


HIDING_NAMES = ", ".join(name for name, spec in METHODS.items() if spec.hides)
HidingLike = Annotated[HidingMethod, BeforeValidator(as_hiding)]


class HideThresholds(Thresholds):
    """The thresholds of a hide job's verdict; null: not checked."""

    rsr1: float | None = Field(
        default=0.7,
        ge=0,
        le=1,
        description=(
            "At least this recovery success rate at top-1 (RSR-1) of each concept, with the key (the paper"
            " reports 0.72)."
        ),
    )
    rsr1_wrong_key: float | None = Field(
        default=0.1,
        ge=0,
        le=1,
        description=(
            "At most this share of each concept's pictures, drawn with a wrong key, may show it (top-1)."
        ),
    )


class HideEvaluationSpec(EvaluationSpec):
    """How a hide job is judged: as an erasure without the key, and by RSR-k with it."""

    thresholds: HideThresholds = Field(
        default=HideThresholds(), description="What the report must reach for the verdict."
    )


class HideSpec(EraseSpec):
    """Hide concepts in a model so that a recovery key brings them back (KPOP; a reconstruction, no public
    code was found).
    """

    method: HidingLike = Field(
        default=AgeSpec(eta=ETA),
        description=(
            f"The erasing term of Eq. 15, one of {HIDING_NAMES}: its name, or an object with its parameters."
            " Omitted: age. In a hide job age's eta is 2 unless given. The paper's own term is naive's, with"
            " a target."
        ),
    )
    base_job_id: None = Field(default=None, description="Not for hide jobs, which start from the base model.")
    append_job_id: None = Field(
        default=None,
        exclude_if=lambda job_id: job_id is None,
        description="Not for hide jobs: name all concepts to hide.",
    )
    recovery: RecoverySpec = Field(
        default=RecoverySpec(),
        description="The recovery key: its length, the ball it stays in, how it is learned.",
    )
    seal_to: PublicKey | None = Field(
        default=None,
        description=(
            "Your X25519 public key in base64. The recovery key is then delivered as a libsodium sealed"
            " box that only you can open. 'expunge key-pair' makes a pair."
        ),
    )
    evaluation: HideEvaluationSpec = Field(
        default=HideEvaluationSpec(), description="How the result is judged, without the key and with it."
    )

    @model_validator(mode="after")
    def nothing_spread(self) -> Self:
        for i, concept in enumerate(self.concepts):
            if concept.attributes:
                raise ValueError(
                    f"concepts[{i}].attributes: a hide job cannot debias: omit them, or use POST /jobs/erase"
                )
            if concept.images:
                raise ValueError(
                    f"concepts[{i}].images: a hide job does not learn concepts from images: omit them, or use"
                    " POST /jobs/erase"
                )
        return self
