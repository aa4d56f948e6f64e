"""Texts, concepts, and the strict base of every spec."""

import json
import re
import uuid
from collections.abc import Iterable
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Self, Union, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from expunge.core.specs.names import MAX_TEXT, Names, clean_text, same, spelt

MIN_IMAGES = 3
NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", re.ASCII)
UUID = re.compile(r"[0-9a-f]{8}-?(?:[0-9a-f]{4}-?){3}[0-9a-f]{12}", re.IGNORECASE | re.ASCII)


def as_id(value: str) -> str:
    """A UUID as the service writes it, in small letters."""
    if not UUID.fullmatch(value):
        raise ValueError(
            f"{json.dumps(value[:60], ensure_ascii=False)} is no id: give a UUID, such as"
            " 0b0d6f2e-6a43-4f0c-9d6b-2f6f5f6d9b11"
        )
    return str(uuid.UUID(value))


Id = Annotated[str, AfterValidator(as_id), Field(json_schema_extra={"format": "uuid"})]
"""The id of a job, an artifact or another thing of the service's: a UUID in letters of either case, kept in
small ones.
"""
ArtifactId = Id
JobId = Id

Text = Annotated[
    str, AfterValidator(clean_text), Field(json_schema_extra={"minLength": 1, "maxLength": MAX_TEXT})
]


def clean_or_empty(value: str) -> str:
    return clean_text(value) if value else value


def seen(value: str) -> str:
    """Refuse what cannot be seen."""
    if not value.isprintable():
        raise ValueError("holds a control character, or one that cannot be seen: remove it")
    return value


# The pattern stands in the schema alone: what is no registered model's id is told which there are.
ModelId = Annotated[
    str,
    AfterValidator(seen),
    Field(
        max_length=200,
        json_schema_extra={"pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"},
        description="A registered model's id; GET /models lists them.",
    ),
]
TextOrEmpty = Annotated[str, AfterValidator(clean_or_empty), Field(json_schema_extra={"maxLength": MAX_TEXT})]


def leaves(annotation: Any) -> set[Any]:
    """The types and literal values that an annotation admits, without its metadata."""
    if get_origin(annotation) is Literal:
        return {type(value) for value in get_args(annotation)}
    if get_origin(annotation) in (Annotated, Union, UnionType):
        return set().union(
            *(
                leaves(a)
                for a in get_args(annotation)
                if a is NoneType or isinstance(a, type) or get_origin(a)
            )
        )
    return {annotation}


def exact(annotation: Any, value: Any) -> Any:
    """Refuse what JSON would not call a number or a truth value, and pydantic would make one of: true for 1,
    "5" for 5, 1 for true.
    """
    admitted = leaves(annotation) - {NoneType}
    if isinstance(value, bool | str) and admitted and admitted <= {int, float}:
        quoted = isinstance(value, str) and NUMBER.fullmatch(value)
        raise ValueError(
            f"must be a number, not {json.dumps(value)[:40]}{': write it without quotes' if quoted else ''}"
        )
    if admitted == {bool} and value is not None and not isinstance(value, bool):
        raise ValueError("must be true or false")
    if isinstance(value, list):
        for member in {m for a in admitted if get_origin(a) is list for m in get_args(a)}:
            for each in value:
                exact(member, each)
    return value


class Spec(BaseModel):
    """Strict base: an unknown field is an error, not a silent no-op; a number is a number, not a string that
    looks like one.
    """

    model_config = ConfigDict(extra="forbid", validate_default=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def exact_types(cls, data: Any) -> Any:
        wrong = []
        for name, value in data.items() if isinstance(data, dict) else ():
            if name in cls.model_fields:
                try:
                    exact(cls.model_fields[name].annotation, value)
                except ValueError as error:
                    wrong.append(
                        InitErrorDetails(
                            type=PydanticCustomError("not_exact", "{why}", {"why": str(error)}),
                            loc=(name,),
                            input=value,
                        )
                    )
        if wrong:
            raise ValidationError.from_exception_data(cls.__name__, wrong)
        return data


class Concept(Spec):
    """A concept to erase: a name, and how prompts may ask for it."""

    name: Text = Field(description="The words a prompt uses, for example 'church' or 'in noto style'.")
    synonyms: list[Text] = Field(
        default=[],
        max_length=16,
        description="Other words for the same concept; erased with it, never candidates for a target.",
    )
    target: Text | None = Field(
        default=None,
        description=(
            "What the concept becomes (editing: 'doctor' to 'nurse'; the anchor). Omitted: the method's own"
            " choice."
        ),
    )
    attributes: list[Text] = Field(
        default=[],
        max_length=16,
        description=(
            "Debiasing (Eq. 17): spread the concept over these, two or more, instead of erasing it. Each is a"
            " phrase of its own ('wolf', 'female doctor'), a phrase in which {} stands for the concept"
            " ('female {}'), or one of the model's styles. Taken by `age` and `uce`."
        ),
    )
    shares: list[Annotated[float, Field(gt=0, lt=1)]] | None = Field(
        default=None,
        description=(
            "The share of pictures that each attribute should get, in (0, 1), together 1; omitted: equal"
            " shares."
        ),
    )

    images: list[ArtifactId] = Field(
        default=[],
        max_length=10,
        description=(
            "Visual editing: 3 to 10 uploaded images (POST /artifacts) that show the concept. Its embedding"
            " is learned from them (textual inversion, Eq. 18) and stands where the name would: 'my dog'"
            " becomes the word <my-dog>. The name itself, unless given as a synonym, keeps its meaning. Of an"
            " image that is not square, its middle is learned."
        ),
    )
    masks: list[ArtifactId] = Field(
        default=[],
        max_length=10,
        description=(
            "Mask editing: one uploaded mask for each image, of its size. The concept becomes what the masks"
            " keep (white): the target is learned from the images with all else made white, each cut to the"
            " smallest square around what is kept (the cut is ours)."
        ),
    )
    initializer: Text | None = Field(
        default=None,
        description=(
            "With images: the words whose embedding the search starts from, a coarse class such as 'dog';"
            " omitted: the name."
        ),
    )

    @property
    def names(self) -> Names:
        """The name and its synonyms, in all their forms."""
        return Names((self.name, *self.synonyms))

    @property
    def wanted(self) -> list[float]:
        """The share asked for each attribute."""
        return self.shares or [1 / len(self.attributes)] * len(self.attributes)

    @model_validator(mode="after")
    def names_differ(self) -> Self:
        # Beside images, the name itself changes only where it is a synonym too
        spellings = set() if self.images else {spelt(self.name)}
        for word in self.synonyms:
            if spelt(word) in spellings:
                raise ValueError(
                    f"synonyms: '{word}' is named twice: a synonym is another word than the name and the"
                    " other synonyms, remove it"
                )
            spellings.add(spelt(word))
        if self.target is not None and self.names.find(self.target) is not None:
            raise ValueError(
                f"target: '{self.target}' equals the concept it should replace, if in another form: choose"
                " another target or omit it"
            )
        return self

    @model_validator(mode="after")
    def images_suffice(self) -> Self:
        if self.images and (different := len(set(self.images))) < MIN_IMAGES:
            raise ValueError(
                f"images: {different} different images show too little to learn from: give 3 to 10"
            )
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
                "attributes: one attribute leaves nothing to spread: name two or more, or give it as 'target'"
            )
        if self.target is not None:
            raise ValueError("attributes: a concept has a target or attributes, not both: omit one of them")
        itself, seen = Names((self.name, *self.synonyms, "{}")), Names()
        for attribute in self.attributes:
            if itself.find(attribute) is not None:
                raise ValueError(
                    f"attributes: '{attribute}' is the concept itself: name what it should be spread over"
                )
            if seen.add(attribute) is not None:
                raise ValueError(f"attributes: '{attribute}' is named twice: remove one")
        if self.shares is not None and len(self.shares) != len(self.attributes):
            raise ValueError(
                f"shares: {len(self.shares)} shares for {len(self.attributes)} attributes: give one for each,"
                " or omit them"
            )
        if self.shares is not None and abs(sum(self.shares) - 1) > 1e-3:
            raise ValueError(
                f"shares: they add up to {sum(self.shares):g}: make it 1, or omit them for equal shares"
            )
        return self


def distinct(concepts: Iterable[Concept], field: str = "concepts") -> Names:
    """All words of the concepts; ValueError where one is named twice, in whatever form. Of one concept, a
    synonym may be another form of its name.
    """
    found = Names()
    for i, concept in enumerate(concepts):
        words = (concept.name, *concept.synonyms)
        twice = next(((word, first) for word in words if (first := found.find(word)) is not None), None)
        if twice is not None:
            raise ValueError(
                f"{field}[{i}]: '{twice[0]}' is named twice, the first time as '{twice[1]}': remove one"
            )
        for word in words:
            found.add(word)
    return found


def apart(field: str, kept: Iterable[str], gone: Names) -> None:
    """ValueError where a name that is to be kept is to be erased too, in whatever form, or is named twice."""
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
    return {"name": value} if isinstance(value, str) else value


def as_method(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


ConceptLike = Annotated[Concept, BeforeValidator(as_concept, json_schema_input_type=Text | Concept)]

SpaceName = Literal["model", "english", "clip"]
MAX_SPACE = 4096


def as_space(value: Any) -> Any:
    if value is None:
        return "model"
    if isinstance(value, str) and value not in get_args(SpaceName):
        raise ValueError(
            f"'{value}' is no concept space: give 'model', 'english', 'clip', or a list of words"
        )
    return value


ConceptSpace = Annotated[
    SpaceName | Annotated[list[Text], Field(min_length=1, max_length=MAX_SPACE)],
    BeforeValidator(
        as_space,
        json_schema_input_type=SpaceName
        | Annotated[list[Text], Field(min_length=1, max_length=MAX_SPACE)]
        | None,
    ),
    Field(
        description=(
            "The words that are searched. model: the model's own vocabulary (default; null means the same);"
            " of a model without one, english, and of an artist 49 painters. english: 3,597 common English"
            " nouns. clip: every whole word among the tokens of the model's tokenizer. Or a list of words."
            " The concept, its synonyms and their inflections are never candidates."
        )
    ),
]
