"""The models that jobs may name, as the service answers them."""

from typing import Literal

from pydantic import BaseModel, Field


class Vocabulary(BaseModel):
    """The concepts and styles that the model knows by name."""

    concepts: int
    styles: list[str]
    examples: list[str] = Field(description="Some of its concepts.")


class Model(BaseModel):
    """A model that jobs may name."""

    id: str
    title: str
    kind: Literal["bundled", "local", "hub"]
    revision: str | None = Field(
        description="The hub's branch, tag or commit that it is pinned to; null if it is not."
    )
    architecture: str | None = Field(
        description=(
            "Such as 'Stable Diffusion 1.x'; null where the API cannot see the model's files, or they cannot"
            " be loaded."
        )
    )
    methods: list[str] | None = Field(
        description="The methods that work on its architecture; null where that is not known."
    )
    usable: bool | None = Field(
        description="Whether jobs may name it; null while no host has seen its files."
    )
    problem: str | None = Field(description="Why it cannot be used, and how to correct that.")
    vocabulary: Vocabulary | None = Field(description="Null where the model has none.")


class ModelList(BaseModel):
    items: list[Model]
