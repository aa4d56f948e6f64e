"""The spec of an impact prediction: which concepts would an erasure hurt?"""

from typing import Self

from pydantic import Field, model_validator

from expunge.core.specs.base import Spec
from expunge.core.specs.concepts import ConceptLike, distinct_names
from expunge.core.specs.fields import ModelId
from expunge.core.specs.jobs import MAX_CONCEPTS
from expunge.core.specs.methods import AnyMethod
from expunge.core.specs.methods.age import AgeSpec


class ImpactSpec(Spec):
    """Predict from the model's measured concept graph what an erasure would hurt; nothing is run."""

    model: ModelId = "emoji"
    concepts: list[ConceptLike] = Field(
        min_length=1,
        max_length=MAX_CONCEPTS,
        description="What would be erased: names, or objects with synonyms, as in POST /jobs/erase.",
    )
    method: AnyMethod = Field(
        default=AgeSpec(), description="The method's name, or an object with its parameters. Omitted: age."
    )
    top: int = Field(default=10, ge=1, le=100, description="Number of concepts to rank.")
    targets: int = Field(default=3, ge=0, le=20, description="Number of targets to propose for each concept.")

    @model_validator(mode="after")
    def each_once(self) -> Self:
        distinct_names(self.concepts)
        return self
