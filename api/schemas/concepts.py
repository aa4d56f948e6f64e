"""The predicted impact of an erasure, as the service answers it."""

from pydantic import BaseModel, Field

from expunge.api.schemas.base import FromRow


class PredictedDrop(FromRow):
    """A predicted drop, and the interval that contains 80 % of the errors held out when it was fitted."""

    value: float
    low: float
    high: float


class HurtConcept(FromRow):
    """A concept that the erasure is predicted to hurt."""

    concept: str
    erased: str = Field(description="The erased concept nearest to it.")
    distance: float = Field(description="Between the two, in the model's text encoder.")
    clip: PredictedDrop = Field(description="Drop in CLIP score, in points (0 to 100).")
    psr: PredictedDrop = Field(description="Drop in PSR-1 (preservation success rate, top 1), as a share.")


class ProposedTarget(FromRow):
    """What a concept may be mapped to."""

    target: str
    distance: float
    g0: float = Field(
        description="CLIP score of the base model's own pictures of it: its generation capability."
    )
    reason: str


class ConceptTargets(BaseModel):
    """Targets for one concept, the best first."""

    concept: str
    targets: list[ProposedTarget]


class EstimatedCost(FromRow):
    """What the job would cost."""

    seconds: float = Field(
        description="Of the erasure alone, on the two CPU cores it was measured on; a GPU needs less."
    )
    unet_evaluations: int


class Impact(BaseModel):
    """What an erasure is predicted to hurt."""

    model: str
    method: str
    hurt: list[HurtConcept] = Field(description="The concepts predicted to lose most, the worst first.")
    targets: list[ConceptTargets] = Field(
        description="Concepts of the same class, close but not synonyms: what AGE calls fantastic targets."
    )
    cost: EstimatedCost | None = Field(description="Null where the method was not measured.")
    scale: float | None = Field(
        description=(
            "How much the method hurts relative to the one that the graph was measured with; predictions are"
            " multiplied by it. Null where the method was not measured; predictions are then not scaled."
        )
    )
    held_out: dict[str, float] = Field(description="How well the fit predicts erasures it was not fitted to.")
    notes: list[str]
