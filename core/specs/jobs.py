"""What each kind of job takes."""

from collections import Counter
from typing import Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from expunge.core.specs.base import Spec
from expunge.core.specs.concepts import ConceptLike, apart, distinct
from expunge.core.specs.evaluation import EvaluationSpec
from expunge.core.specs.fields import Id, JobId, ModelId, Text
from expunge.core.specs.inversion import InversionSpec
from expunge.core.specs.methods import METHODS, AnyMethod
from expunge.core.specs.methods.age import AgeSpec

MAX_CONCEPTS = 64
MAX_KEY, MAX_VALUE = 64, 512  # characters of a label
ACCEPTED = {"accepted": True}
"""Context of model_validate for the spec of a job that was accepted, maybe by a release that refused less:
its parts are not held against each other again.
"""


class JobSpec(Spec):
    """What every job takes."""

    model: ModelId = "emoji"
    labels: dict[str, str] = Field(
        default={},
        max_length=16,
        description="Up to 16 labels of your own; keys up to 64, values up to 512 characters.",
    )
    queue_timeout_s: int | None = Field(
        default=None,
        ge=1,
        le=30 * 86400,
        description="Expire the job when it has not started after this many seconds.",
    )
    run_timeout_s: int | None = Field(
        default=None, ge=1, le=7 * 86400, description="Fail the job when it has run this many seconds in all."
    )

    @field_validator("labels")
    @classmethod
    def bounded_labels(cls, labels: dict[str, str]) -> dict[str, str]:
        for key, value in labels.items():
            if not 1 <= len(key) <= MAX_KEY or len(value) > MAX_VALUE:
                what = "is too long" if key else "has no key"
                raise ValueError(
                    f"label '{key[:MAX_KEY]}' {what}: keys have 1 to {MAX_KEY} characters, values at most"
                    f" {MAX_VALUE}"
                )
            if not (key + value).isprintable():
                raise ValueError(
                    f"label {key[:MAX_KEY]!a} holds a control character, or one that cannot be seen:"
                    " remove it"
                )
        return labels


class EraseSpec(JobSpec):
    """Take concepts out of a model, turn them into others, or spread them over attributes."""

    concepts: list[ConceptLike] = Field(
        min_length=1,
        max_length=MAX_CONCEPTS,
        description=(
            "What to erase: names, or objects with synonyms; what to edit: with a target; what to debias:"
            " with attributes."
        ),
    )
    base_job_id: JobId | None = Field(
        default=None,
        description=(
            "Start from this finished erase job's sanitized model instead of the base model. The delivered"
            " delta holds the whole stack."
        ),
    )
    preserve: list[Text] = Field(
        default=[],
        max_length=512,
        description=(
            "Concepts that must stay as they are; used by the methods that take them, and always judged."
        ),
    )
    method: AnyMethod = Field(
        default=AgeSpec(), description="A method's name, or an object with its parameters; omitted: age."
    )
    inversion: InversionSpec = Field(
        default=InversionSpec(), description="How concepts given by images are learned."
    )
    seed: int = Field(
        default=0, ge=0, lt=2**31, description="The same spec and seed give the same bytes (CPU)."
    )
    fused: bool = Field(
        default=False,
        description=(
            "Deliver a fused checkpoint too: a LoRA delta can be unloaded, a fused checkpoint cannot."
        ),
    )
    evaluation: EvaluationSpec = Field(default=EvaluationSpec(), description="How the result is judged.")

    @model_validator(mode="after")
    def consistent(self, info: ValidationInfo) -> Self:
        if info.context == ACCEPTED:
            return self
        words = distinct(self.concepts)
        apart("preserve", self.preserve, words)
        apart("method.preserve", getattr(self.method, "preserve", ()), words)
        apart("evaluation.preserved_concepts", self.evaluation.preserved_concepts or (), words)
        guide = getattr(self.method, "guide", None)
        if guide and words.find(guide) is not None:
            raise ValueError(f"method.guide: '{guide}' is itself to be erased: choose another target")
        for i, concept in enumerate(self.concepts):
            if concept.target is not None and words.find(concept.target) is not None:
                raise ValueError(
                    f"concepts[{i}].target: '{concept.target}' is itself to be erased: choose another target"
                )
            lost = next((a for a in concept.attributes if words.find(a) is not None), None)
            if lost is not None:
                raise ValueError(
                    f"concepts[{i}].attributes: '{lost}' is itself to be erased: choose another attribute"
                )
            if concept.attributes and not self.method.debiases:
                raise ValueError(
                    f"concepts[{i}].attributes: the method '{self.method.name}' cannot debias: use"
                    f" {' or '.join(sorted(name for name, spec in METHODS.items() if spec.debiases))}"
                )
        if self.inversion != InversionSpec() and not any(concept.images for concept in self.concepts):
            raise ValueError("inversion: no concept is given by images, so nothing is learned: omit it")
        if self.base_job_id is not None and not self.method.stackable():
            raise ValueError(
                f"base_job_id: the method '{self.method.name}' gives no LoRA of the U-Net, so it cannot stand"
                " on another job"
            )
        return self


class EvaluateSpec(JobSpec):
    """Judge a finished job's model, or an uploaded delta, or the base model alone."""

    job_id: JobId | None = Field(
        default=None, description="A finished erase or hide job whose delta is judged; without its key."
    )
    artifact_id: Id | None = Field(default=None, description="An uploaded delta (POST /artifacts) to judge.")
    concepts: list[ConceptLike] = Field(
        default=[],
        max_length=MAX_CONCEPTS,
        description="The erased concepts; omitted with job_id: that job's.",
    )
    evaluation: EvaluationSpec = Field(default=EvaluationSpec(), description="How the result is judged.")

    @model_validator(mode="after")
    def one_source(self, info: ValidationInfo) -> Self:
        if info.context == ACCEPTED:
            return self
        if (self.job_id is None) == (self.artifact_id is None):
            raise ValueError(
                "give exactly one of job_id (a finished job) and artifact_id (an uploaded delta)"
            )
        if self.artifact_id is not None and not self.concepts:
            raise ValueError(
                "concepts: an uploaded delta does not say what it erases: name the concepts to judge"
            )
        apart(
            "evaluation.preserved_concepts", self.evaluation.preserved_concepts or (), distinct(self.concepts)
        )
        return self


class CombineSpec(JobSpec):
    """One sanitized model from several finished erase jobs: stack them, or take one back out by leaving it
    out.
    """

    jobs: list[JobId] = Field(
        min_length=1,
        max_length=MAX_CONCEPTS,
        description=(
            "The erase jobs whose own deltas are summed. A job that stands on others gives only its own: name"
            " those too, or leave one out to bring its concepts back."
        ),
    )
    fused: bool = Field(default=False, description="Deliver a fused checkpoint too.")
    evaluation: EvaluationSpec = Field(default=EvaluationSpec(), description="How the result is judged.")

    @field_validator("jobs")
    @classmethod
    def each_once(cls, jobs: list[str]) -> list[str]:
        if len(set(jobs)) < len(jobs):
            twice = next(job for job, count in Counter(jobs).items() if count > 1)
            raise ValueError(f"job {twice} is named twice: remove one")
        return jobs
