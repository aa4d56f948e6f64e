"""A comparison of jobs, as the service answers it."""

import uuid
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

from expunge.api.schemas.jobs import JobKind


class ComparedJob(BaseModel):
    """One of the jobs, by the letter that the rest of the comparison calls it."""

    name: str = Field(description="A, B, C … in the order of the request.")
    id: uuid.UUID
    kind: JobKind
    method: str | None = Field(description="Of an evaluate job: of the job that it judges. Null: unknown.")
    model: str
    erased: list[str]
    verdict: Literal["passed", "failed", "not shown"] = Field(description="As its report has it.")
    labels: dict[str, str]
    created_at: datetime
    report_id: uuid.UUID = Field(description="The artifact with the figures: its report.json.")
    report_sha256: str = Field(description="Of the bytes that the figures were read from; verified.")
    base_model_sha256: str | None
    delta_sha256: str | None


class Difference(BaseModel):
    """Something that the jobs do not share, so that their figures are not of one kind."""

    differs: str = Field(
        description=(
            "`base_model`, `judges`, `conventions`, `erased`, `preserved`, or a field of the evaluation."
        )
    )
    message: str


class DifferentParameter(BaseModel):
    """A field of the specs in which the jobs differ."""

    name: str = Field(examples=["method.steps"])
    values: list[Any] = Field(description="Of each job, in their order; null where it has no such field.")


class ComparedValue(BaseModel):
    """A metric of one job, and the jobs that it is shown to be better and worse than."""

    job: str = Field(description="The job's letter.")
    value: float
    ci_low: float | None
    ci_high: float | None
    n: int
    better_than: list[str]
    worse_than: list[str]
    mark: Literal["better", "worse", "between"] | None = Field(
        description=(
            "Better than some and worse than none, the reverse, or both. Null: no difference is shown."
        )
    )


class ComparedMetric(BaseModel):
    """A metric of at least two of the jobs."""

    metric: str
    title: str
    concept: str | None = Field(description="Null: all concepts together.")
    role: Literal["erased", "preserved"] | None
    attack: str | None
    better: Literal["higher", "lower"] | None = Field(description="Which value is better; null: neither.")
    conclusion: str = Field(description="What is shown, or why nothing is.")
    values: list[ComparedValue] = Field(description="Of each job that has the metric, in their order.")


class Comparison(BaseModel):
    """Several jobs on one concept, side by side."""

    concepts: list[str] = Field(description="What all of the jobs erase.")
    jobs: list[ComparedJob]
    differences: list[Difference] = Field(
        description="Read these first: what makes the figures less comparable. Empty: nothing does."
    )
    notes: list[str]
    parameters: list[DifferentParameter]
    metrics: list[ComparedMetric]
