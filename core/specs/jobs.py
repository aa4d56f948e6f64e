"""The specs of erase, evaluate and combine jobs."""

from collections import Counter
from typing import Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from expunge.core.specs.base import Spec
from expunge.core.specs.concepts import Concept, ConceptLike, check_apart, distinct_names
from expunge.core.specs.evaluation import EvaluationSpec
from expunge.core.specs.fields import Id, JobId, ModelId, Text
from expunge.core.specs.inversion import InversionSpec
from expunge.core.specs.methods import METHODS, AnyMethod
from expunge.core.specs.methods.age import AgeSpec
from expunge.core.specs.names import Names

MAX_CONCEPTS = 64
MAX_KEY, MAX_VALUE = 64, 512  # characters of a label
ACCEPTED = {"accepted": True}
"""Context of model_validate for the spec of a job that was accepted earlier, perhaps by a release that
refused less: its fields are not checked against each other again.
"""


class JobSpec(Spec):
    """What all jobs share."""

    model: ModelId = "emoji"
    labels: dict[str, str] = Field(
        default={},
        max_length=16,
        description="Up to 16 labels of your own: keys of up to 64, values of up to 512 characters.",
    )
    queue_timeout_s: int | None = Field(
        default=None,
        ge=1,
        le=30 * 86400,
        description="Expire the job if it has not started after this many seconds.",
    )
    run_timeout_s: int | None = Field(
        default=None,
        ge=1,
        le=7 * 86400,
        description="Fail the job once it has run for this many seconds in total.",
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
                    f"label {key[:MAX_KEY]!a} contains a control character or an invisible one: remove it"
                )
        return labels


class EraseSpec(JobSpec):
    """Remove concepts from a model, turn them into others, or spread them over attributes."""

    concepts: list[ConceptLike] = Field(
        min_length=1,
        max_length=MAX_CONCEPTS,
        description=(
            "What to erase: names, or objects with synonyms. A concept with a target is edited, one with"
            " attributes is debiased."
        ),
    )
    base_job_id: JobId | None = Field(
        default=None,
        description=(
            "Start from the sanitized model of this finished erase job instead of the base model. The"
            " delivered delta holds the whole stack."
        ),
    )
    append_job_id: JobId | None = Field(
        default=None,
        exclude_if=lambda job_id: job_id is None,
        description=(
            "Erase anew, from the base model, all that this finished job's model has erased, together with"
            " `concepts`: trained with the whole list, where `base_job_id` adds to what was trained before."
            " That job's `preserve` is taken over, but for what is erased now; the answer's `spec` has both"
            " lists in full."
        ),
    )
    preserve: list[Text] = Field(
        default=[],
        max_length=512,
        description=(
            "Concepts that must stay as they are. Methods that take them preserve them; all are judged."
        ),
    )
    method: AnyMethod = Field(
        default=AgeSpec(), description="A method's name, or an object with its parameters. Omitted: age."
    )
    inversion: InversionSpec = Field(
        default=InversionSpec(), description="How concepts given by images are learned."
    )
    seed: int = Field(
        default=0, ge=0, lt=2**31, description="The same spec and seed give the same bytes (on a CPU)."
    )
    fused: bool = Field(
        default=False,
        description=(
            "Also deliver a fused checkpoint. A LoRA delta can be unloaded, a fused checkpoint cannot."
        ),
    )
    evaluation: EvaluationSpec = Field(default=EvaluationSpec(), description="How the result is judged.")

    @model_validator(mode="after")
    def consistent(self, info: ValidationInfo) -> Self:
        if info.context == ACCEPTED:
            return self

        # Nothing is both erased and kept, and nothing becomes what is itself erased
        erased = distinct_names(self.concepts)
        check_apart("preserve", self.preserve, erased)
        check_apart("method.preserve", getattr(self.method, "preserve", ()), erased)
        check_apart("evaluation.preserved_concepts", self.evaluation.preserved_concepts or (), erased)
        target = getattr(self.method, "guide", None)
        if target and erased.find(target) is not None:
            raise ValueError(f"method.guide: '{target}' is itself to be erased: choose another target")
        for i, concept in enumerate(self.concepts):
            self.check_concept(f"concepts[{i}]", concept, erased)

        # What the method, or the spec, has no use for
        if self.base_job_id is not None and self.append_job_id is not None:
            raise ValueError(
                "append_job_id: it starts from the base model, base_job_id from another job's: omit one"
            )
        if self.inversion != InversionSpec() and not any(concept.images for concept in self.concepts):
            raise ValueError("inversion: no concept is given by images, so nothing is learned: omit it")
        if self.base_job_id is not None and not self.method.stackable():
            raise ValueError(
                f"base_job_id: the method '{self.method.name}' does not deliver a LoRA on the denoising"
                " network, so it cannot build on another job: choose another method, or omit base_job_id"
            )
        return self

    def check_concept(self, field: str, concept: Concept, erased: Names) -> None:
        """Check what one concept becomes. Raises: ValueError."""
        if concept.target is not None and erased.find(concept.target) is not None:
            raise ValueError(
                f"{field}.target: '{concept.target}' is itself to be erased: choose another target"
            )
        for attribute in concept.attributes:
            if erased.find(attribute) is not None:
                raise ValueError(
                    f"{field}.attributes: '{attribute}' is itself to be erased: choose another attribute"
                )
        if concept.attributes and getattr(self.method, "adversary", None) is not None:
            raise ValueError(
                f"{field}.attributes: a concept that is spread over attributes is still drawn, so there is"
                " nothing to bring back: omit method.adversary"
            )
        if concept.attributes and not self.method.debiases:
            able = sorted(name for name, spec in METHODS.items() if spec.debiases)
            raise ValueError(
                f"{field}.attributes: the method '{self.method.name}' cannot debias: use {' or '.join(able)}"
            )


class EvaluateSpec(JobSpec):
    """Judge a finished job's model, or an uploaded delta."""

    job_id: JobId | None = Field(
        default=None,
        description="A finished erase or hide job whose delta is judged, without its recovery key.",
    )
    artifact_id: Id | None = Field(default=None, description="An uploaded delta (POST /artifacts) to judge.")
    concepts: list[ConceptLike] = Field(
        default=[],
        max_length=MAX_CONCEPTS,
        description="The erased concepts. Omitted with job_id: that job's.",
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
        if self.evaluation.on_fail == "withhold":
            raise ValueError(
                "evaluation.on_fail: an evaluate job delivers no weights to withhold: omit it, and give it to"
                " the job that makes them"
            )
        erased = distinct_names(self.concepts)
        check_apart("evaluation.preserved_concepts", self.evaluation.preserved_concepts or (), erased)
        return self


class CombineSpec(JobSpec):
    """One sanitized model from several finished erase jobs: stacks them. A job that is left out is taken
    back.
    """

    jobs: list[JobId] = Field(
        min_length=1,
        max_length=MAX_CONCEPTS,
        description=(
            "The erase jobs whose own deltas are summed. A job that was built on others contributes its"
            " own delta alone: name those others too, or leave one out to bring its concepts back."
        ),
    )
    fused: bool = Field(default=False, description="Also deliver a fused checkpoint.")
    evaluation: EvaluationSpec = Field(default=EvaluationSpec(), description="How the result is judged.")

    @field_validator("jobs")
    @classmethod
    def each_once(cls, jobs: list[str]) -> list[str]:
        if len(set(jobs)) < len(jobs):
            twice = next(job for job, count in Counter(jobs).items() if count > 1)
            raise ValueError(f"job {twice} is named twice: remove one")
        return jobs
