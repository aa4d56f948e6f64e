"""Texts, concepts, and the strict base of every spec."""

import json
import unicodedata
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Self, Union, get_args, get_origin

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

MAX_TEXT = 200


def clean_text(value: str) -> str:
    """NFC, trimmed; refuse empty text, control characters and direction overrides."""
    text = unicodedata.normalize("NFC", value).strip()
    if not text:
        raise ValueError("must not be empty: give the words a prompt would use, for example 'church'")
    if len(text) > MAX_TEXT:
        raise ValueError(f"has {len(text)} characters, at most {MAX_TEXT} are allowed: name the concept, not a whole text")
    bad = next(
        (
            c
            for c in text
            if unicodedata.category(c) in ("Cc", "Cs", "Co", "Cn") or c in "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
        ),
        None,
    )
    if bad is not None:
        raise ValueError(f"holds the control character U+{ord(bad):04X}: remove it")
    return text


STYLE_FORMS = ("{}", "{} style", "in {} style", "in the style of {}")
"""The ways to name a style that a model's vocabulary lists."""


def same(a: str, b: str) -> bool:
    """Whether two concept names are one, whatever their case and spacing."""
    return folded(a) == folded(b)


def folded(name: str) -> str:
    """A concept name without its case and spacing."""
    return " ".join(name.casefold().split())


Text = Annotated[str, AfterValidator(clean_text), Field(json_schema_extra={"minLength": 1, "maxLength": MAX_TEXT})]


def clean_or_empty(value: str) -> str:
    return clean_text(value) if value else value


TextOrEmpty = Annotated[str, AfterValidator(clean_or_empty), Field(json_schema_extra={"maxLength": MAX_TEXT})]
ArtifactId = Annotated[str, Field(pattern=r"^[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}$")]


def leaves(annotation: Any) -> set[Any]:
    """The types and literal values that an annotation admits, without its metadata."""
    if get_origin(annotation) is Literal:
        return {type(value) for value in get_args(annotation)}
    if get_origin(annotation) in (Annotated, Union, UnionType):
        return set().union(*(leaves(a) for a in get_args(annotation) if a is NoneType or isinstance(a, type) or get_origin(a)))
    return {annotation}


def exact(annotation: Any, value: Any) -> Any:
    """Refuse what JSON would not call a number or a truth value, and pydantic would make one of: true for 1, "5" for 5, 1 for true."""
    admitted = leaves(annotation) - {NoneType}
    if isinstance(value, bool | str) and admitted and admitted <= {int, float}:
        raise ValueError(f"must be a number, not {json.dumps(value)[:40]}: write it without quotes")
    if admitted == {bool} and value is not None and not isinstance(value, bool):
        raise ValueError("must be true or false")
    if isinstance(value, list):
        for member in {m for a in admitted if get_origin(a) is list for m in get_args(a)}:
            for each in value:
                exact(member, each)
    return value


class Spec(BaseModel):
    """Strict base: an unknown field is an error, not a silent no-op; a number is a number, not a string that looks like one."""

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
                        InitErrorDetails(type=PydanticCustomError("not_exact", "{why}", {"why": str(error)}), loc=(name,), input=value)
                    )
        if wrong:
            raise ValidationError.from_exception_data(cls.__name__, wrong)
        return data


class Concept(Spec):
    """A concept to erase: a name, and how prompts may ask for it."""

    name: Text = Field(description="The words a prompt uses, for example 'church' or 'in noto style'.")
    synonyms: list[Text] = Field(
        default=[], max_length=16, description="Other words for the same concept; erased with it, never candidates for a target."
    )
    target: Text | None = Field(
        default=None, description="What the concept becomes (editing: 'doctor' to 'nurse'; the anchor). Omitted: the method's own choice."
    )
    attributes: list[Text] = Field(
        default=[],
        max_length=16,
        description="Debiasing (Eq. 17): spread the concept over these, two or more, instead of erasing it. Each is a phrase of its own ('wolf', "
        "'female doctor'), a phrase in which {} stands for the concept ('female {}'), or one of the model's styles. Taken by `age` and `uce`.",
    )
    shares: list[Annotated[float, Field(gt=0, lt=1)]] | None = Field(
        default=None, description="The share of pictures that each attribute should get, in (0, 1), together 1; omitted: equal shares."
    )

    images: list[ArtifactId] = Field(
        default=[],
        max_length=10,
        description="Visual editing: 3 to 10 uploaded images (POST /artifacts) that show the concept. Its embedding is learned from them (textual inversion, "
        "Eq. 18) and stands where the name would: 'my dog' becomes the word <my-dog>. The name itself, unless given as a synonym, keeps its meaning.",
    )
    masks: list[ArtifactId] = Field(
        default=[],
        max_length=10,
        description="Mask editing: one uploaded mask for each image, of its size. The concept becomes what the masks keep (white): the target is learned "
        "from the images with all else made white, each cut to the smallest square around what is kept (the cut is ours).",
    )
    initializer: Text | None = Field(
        default=None,
        description="With images: the words whose embedding the search starts from, a coarse class such as 'dog'; omitted: the name.",
    )

    @property
    def wanted(self) -> list[float]:
        """The share asked for each attribute."""
        return self.shares or [1 / len(self.attributes)] * len(self.attributes)

    @model_validator(mode="after")
    def target_differs(self) -> Self:
        if self.target is not None and any(same(self.target, word) for word in (self.name, *self.synonyms)):
            raise ValueError(f"target: '{self.target}' equals the concept it should replace: choose another target or omit it")
        return self

    @model_validator(mode="after")
    def images_suffice(self) -> Self:
        if self.images and len(self.images) < 3:
            raise ValueError(f"images: {len(self.images)} images show too little to learn from: give 3 to 10")
        if self.masks and len(self.masks) != len(self.images):
            raise ValueError(f"masks: {len(self.masks)} masks for {len(self.images)} images: give one for each, in their order, or none")
        if self.masks and (self.target is not None or self.attributes):
            raise ValueError("masks: the target is learned from what the masks keep: omit target and attributes, or omit masks")
        if self.initializer is not None and not self.images:
            raise ValueError("initializer: there are no images to learn from: give images, or omit it")
        return self

    @model_validator(mode="after")
    def attributes_differ(self) -> Self:
        if not self.attributes:
            if self.shares is not None:
                raise ValueError("shares: there are no attributes to share the concept among: name them in 'attributes' or omit shares")
            return self
        if len(self.attributes) == 1:
            raise ValueError("attributes: one attribute leaves nothing to spread: name two or more, or give it as 'target'")
        if self.target is not None:
            raise ValueError("attributes: a concept has a target or attributes, not both: omit one of them")
        for i, attribute in enumerate(self.attributes):
            if same(attribute, "{}") or any(same(attribute, word) for word in (self.name, *self.synonyms)):
                raise ValueError(f"attributes: '{attribute}' is the concept itself: name what it should be spread over")
            if any(same(attribute, other) for other in self.attributes[:i]):
                raise ValueError(f"attributes: '{attribute}' is named twice: remove one")
        if self.shares is not None and len(self.shares) != len(self.attributes):
            raise ValueError(f"shares: {len(self.shares)} shares for {len(self.attributes)} attributes: give one for each, or omit them")
        if self.shares is not None and abs(sum(self.shares) - 1) > 1e-3:
            raise ValueError(f"shares: they add up to {sum(self.shares):g}: make it 1, or omit them for equal shares")
        return self


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
        raise ValueError(f"'{value}' is no concept space: give 'model', 'english', 'clip', or a list of words")
    return value


ConceptSpace = Annotated[
    SpaceName | Annotated[list[Text], Field(min_length=1, max_length=MAX_SPACE)],
    BeforeValidator(as_space, json_schema_input_type=SpaceName | Annotated[list[Text], Field(min_length=1, max_length=MAX_SPACE)] | None),
    Field(
        description="The words that are searched. model: the model's own vocabulary (default; null means the same). english: 3,597 common English nouns. "
        "clip: every whole word among the tokens of the model's tokenizer. Or a list of words. The concept, its synonyms and their inflections are never candidates."
    ),
]
