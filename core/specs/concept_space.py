"""The vocabulary that an adversarial search, or an inspection, ranges over."""

from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field

from expunge.core.specs.fields import Text

SpaceName = Literal["model", "english", "clip"]
MAX_SPACE = 4096
Words = Annotated[list[Text], Field(min_length=1, max_length=MAX_SPACE)]


def as_space(value: Any) -> Any:
    """The default for null. Raises: ValueError for a name that is none of a concept space."""
    if value is None:
        return "model"
    if isinstance(value, str) and value not in get_args(SpaceName):
        raise ValueError(
            f"'{value}' is not a concept space: give 'model', 'english', 'clip', or a list of words"
        )
    return value


ConceptSpace = Annotated[
    SpaceName | Words,
    BeforeValidator(as_space, json_schema_input_type=SpaceName | Words | None),
    Field(
        description=(
            "The words that are searched. model: the model's own vocabulary (the default, also for null); for"
            " a model without one, english, or 49 painters where the concept is an artist. english: 3,597"
            " common English nouns. clip: every whole word among the tokens of the model's tokenizer. Or a"
            " list of words. The concept, its synonyms and their inflections are never candidates."
        )
    ),
]
