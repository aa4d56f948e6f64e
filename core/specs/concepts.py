"""Concepts: what a job erases, and what it keeps."""

from collections.abc import Iterable
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, model_validator

from expunge.core.specs.base import Spec
from expunge.core.specs.fields import ArtifactId, Text
from expunge.core.specs.names import Names, same, spelt

MIN_IMAGES = 3


class Concept(Spec):
    """A concept to erase: its name, other words for it, and what it becomes."""

    name: Text = Field(description="The words a prompt uses, for example 'church' or 'in noto style'.")
    synonyms: list[Text] = Field(
        default=[],
        max_length=16,
        description=(
            "Other words for the same concept. They are erased with it and are never candidates for a target."
        ),
    )
    target: Text | None = Field(
        default=None,
        description=(
            "What the concept becomes, for example 'nurse' for 'doctor' (editing; the literature also says"
            " anchor). Omitted: the method's own choice."
        ),
    )
    attributes: list[Text] = Field(
        default=[],
        max_length=16,
        description=(
            "Debiasing (Eq. 17): spread the concept over these, two or more, instead of erasing it. Each"
            " is a phrase of its own ('wolf', 'female doctor'), a phrase in which {} stands for the concept"
            " ('female {}'), or one of the model's styles. For the methods `age` and `uce`."
        ),
    )
    shares: list[Annotated[float, Field(gt=0, lt=1)]] | None = Field(
        default=None,
        description=(
            "The share of pictures that each attribute should get, in (0, 1), 1 in total. Omitted: equal"
            " shares."
        ),
    )

    images: list[ArtifactId] = Field(
        default=[],
        max_length=10,
        description=(
            "Visual editing: 3 to 10 uploaded images (POST /artifacts) that show the concept. Its"
            " embedding is learned from them (textual inversion, Eq. 18) and takes the name's place in"
            " prompts: 'my dog' becomes the word <my-dog>. The name itself keeps its meaning unless it is"
            " also given as a synonym. Of an image that is not square, the middle is used."
        ),
    )
    masks: list[ArtifactId] = Field(
        default=[],
        max_length=10,
        description=(
            "Mask editing: one uploaded mask for each image, of the same size. The concept becomes what"
            " the masks keep (white): the target is learned from the images with everything else painted"
            " white, each cropped to the smallest square around what is kept (the crop is ours)."
        ),
    )
    initializer: Text | None = Field(
        default=None,
        description=(
            "With images: the words whose embedding the search starts from, a coarse class such as 'dog'."
            " Omitted: the name."
        ),
    )

    @property
    def names(self) -> Names:
        """The name and its synonyms, in all their forms."""
        return Names((self.name, *self.synonyms))

    @property
    def wanted(self) -> list[float]:
        """The share requested for each attribute."""
        return self.shares or [1 / len(self.attributes)] * len(self.attributes)

    @model_validator(mode="after")
    def names_differ(self) -> Self:
        # Beside images, the name itself changes only where it is a synonym too
        spellings = set() if self.images else {spelt(self.name)}
        for word in self.synonyms:
            if spelt(word) in spellings:
                raise ValueError(
                    f"synonyms: '{word}' is named twice, as the name or another synonym: remove it"
                )
            spellings.add(spelt(word))
        if self.target is not None and self.names.find(self.target) is not None:
            raise ValueError(
                f"target: '{self.target}' equals the concept that it replaces: choose another target, or"
                " omit it"
            )
        return self

    @model_validator(mode="after")
    def images_suffice(self) -> Self:
        if self.images and (different := len(set(self.images))) < MIN_IMAGES:
            some = "image" if different == 1 else "images"
            raise ValueError(f"images: {different} different {some}, too few to learn from: give 3 to 10")
        if self.masks and len(self.masks) != len(self.images):
            raise ValueError(
                f"masks: {len(self.masks)} masks for {len(self.images)} images: give one for each, in their"
                " order, or none"
            )
        if self.masks and (self.target is not None or self.attributes):
            raise ValueError(
                "masks: the target is learned from what the masks keep: omit target and attributes, or omit"
                " masks"
            )
        if self.initializer is not None and not self.images:
            raise ValueError("initializer: there are no images to learn from: give images, or omit it")
        return self

    @model_validator(mode="after")
    def attributes_differ(self) -> Self:
        if not self.attributes:
            if self.shares is not None:
                raise ValueError(
                    "shares: there are no attributes to share the concept among: name them in 'attributes' or"
                    " omit shares"
                )
            return self
        if len(self.attributes) == 1:
            raise ValueError(
                "attributes: one is not enough to spread a concept over: name two or more, or give it as"
                " 'target'"
            )
        if self.target is not None:
            raise ValueError("attributes: a concept has a target or attributes, not both: omit one of them")

        # Each attribute is another thing than the concept, and than the others.
        itself, seen = Names((self.name, *self.synonyms, "{}")), Names()
        for attribute in self.attributes:
            if itself.find(attribute) is not None:
                raise ValueError(
                    f"attributes: '{attribute}' is the concept itself: name what it should be spread over"
                )
            if seen.add(attribute) is not None:
                raise ValueError(f"attributes: '{attribute}' is named twice: remove one")

        # One share for each, and together the whole.
        if self.shares is not None and len(self.shares) != len(self.attributes):
            raise ValueError(
                f"shares: {len(self.shares)} shares for {len(self.attributes)} attributes: give one for each,"
                " or omit them"
            )
        if self.shares is not None and abs(sum(self.shares) - 1) > 1e-3:
            raise ValueError(
                f"shares: they add up to {sum(self.shares):g}, not 1: correct them, or omit them for equal"
                " shares"
            )
        return self


def distinct_names(concepts: Iterable[Concept], field: str = "concepts") -> Names:
    """All names and synonyms of the concepts. Within a concept a synonym may be another form of its name.

    Raises: ValueError where two concepts share one, in any form.
    """
    found = Names()
    for i, concept in enumerate(concepts):
        words = (concept.name, *concept.synonyms)
        for word in words:
            if (first := found.find(word)) is not None:
                raise ValueError(
                    f"{field}[{i}]: '{word}' is named twice, the first time as '{first}': remove one"
                )
        for word in words:
            found.add(word)
    return found


def check_apart(field: str, kept: Iterable[str], gone: Names) -> None:
    """Check that no name is both kept and erased, or kept twice, in any form. Raises: ValueError."""
    seen = Names()
    for name in kept:
        if (erased := gone.find(name)) is not None:
            as_it = "" if same(erased, name) else f", as '{erased}'"
            raise ValueError(
                f"{field}: '{name}' is also to be erased{as_it}: remove it from one of the two lists"
            )
        if (other := seen.add(name)) is not None:
            raise ValueError(f"{field}: '{name}' is named twice, the first time as '{other}': remove one")


def as_concept(value: Any) -> Any:
    """A bare name stands for a concept of that name."""
    return {"name": value} if isinstance(value, str) else value


ConceptLike = Annotated[Concept, BeforeValidator(as_concept, json_schema_input_type=Text | Concept)]
