"""The spec of an inspect job: which concepts changed most between two models (Eq. 19)?"""

from typing import Self

from pydantic import Field, model_validator

from expunge.core.specs.concept_space import ConceptSpace
from expunge.core.specs.concepts import ConceptLike
from expunge.core.specs.fields import Id
from expunge.core.specs.jobs import JobSpec


class InspectSpec(JobSpec):
    """Rank the concepts that changed most from a model θ to a model θ' (Eq. 19): max over c of |ε'(c_e) −
    ε(c)|² + λ |ε'(c) − ε(c)|².
    """

    job_id: Id | None = Field(default=None, description="θ': the finished job whose delta is inspected.")
    artifact_id: Id | None = Field(
        default=None, description="θ': the uploaded delta (POST /artifacts) that is inspected."
    )
    against_job_id: Id | None = Field(
        default=None, description="θ: a finished job whose delta is compared. Omitted: the base model."
    )
    against_artifact_id: Id | None = Field(
        default=None, description="θ: an uploaded delta that is compared. Omitted: the base model."
    )
    concept: ConceptLike | None = Field(
        default=None,
        description=(
            "c_e, the concept that was changed: a name, or an object with synonyms; none of them is"
            " ranked. Omitted: what `job_id` erased if that is one concept, else what changed most."
        ),
    )
    concept_space: ConceptSpace = "model"
    most_words: int = Field(
        default=4096,
        ge=1,
        le=50_000,
        description=(
            "Number of words that are read from the beginning of the space. `clip` has about 30,000, in"
            " the order in which its tokens were made, more frequent ones first. Each word takes"
            " trajectories x timesteps x 2 evaluations of the network, and half as many again without"
            " `concept`."
        ),
    )
    locality: float = Field(
        default=10.0,
        ge=0,
        le=1e6,
        description=(
            "λ of Eq. 19. A large value ranks what changed most, which lies near what was changed; 0 ranks"
            " what is farthest from what c_e has become (ours; no default is published)."
        ),
    )
    trajectories: int = Field(
        default=2,
        ge=1,
        le=256,
        description=(
            "Denoising trajectories of θ without a prompt; all concepts are compared on the same latents"
            " (ours)."
        ),
    )
    timesteps: int = Field(
        default=4,
        ge=1,
        le=100,
        description="Latents taken from each trajectory, evenly spaced over its steps (ours).",
    )
    sampling_steps: int = Field(
        default=20,
        ge=2,
        le=200,
        description=(
            "Steps of a trajectory, with DDIM, and of a picture, with the checkpoint's own scheduler."
        ),
    )
    top: int = Field(default=20, ge=1, le=500, description="Number of concepts in the ranking.")
    pictures: int = Field(
        default=2,
        ge=0,
        le=16,
        description="Pictures of each of the first eight concepts, drawn by both models. 0: none.",
    )
    seed: int = Field(
        default=0, ge=0, lt=2**31, description="Seed of the trajectories, and first seed of the pictures."
    )

    @model_validator(mode="after")
    def two_models(self) -> Self:
        if (self.job_id is None) == (self.artifact_id is None):
            raise ValueError(
                "give exactly one of job_id (a finished job) and artifact_id (an uploaded delta)"
            )
        if self.against_job_id is not None and self.against_artifact_id is not None:
            raise ValueError(
                "give at most one of against_job_id and against_artifact_id: without either, the base model"
                " is compared"
            )
        if (self.job_id or self.artifact_id) in (self.against_job_id, self.against_artifact_id):
            raise ValueError(
                "against_job_id: names the inspected model itself: name another, or omit it for the base"
                " model"
            )
        if self.timesteps > self.sampling_steps:
            raise ValueError(
                f"timesteps: {self.timesteps} is more than the {self.sampling_steps} steps of a trajectory:"
                " lower it, or raise sampling_steps"
            )
        return self
