"""Types of single fields: texts, ids, a model's name."""

import json
import re
import uuid
from typing import Annotated

from pydantic import AfterValidator, Field

from expunge.core.specs.names import MAX_TEXT, clean_text

UUID = re.compile(r"[0-9a-f]{8}-?(?:[0-9a-f]{4}-?){3}[0-9a-f]{12}", re.IGNORECASE | re.ASCII)


def as_id(value: str) -> str:
    """A UUID as the service writes it, in lower case. Raises: ValueError."""
    if not UUID.fullmatch(value):
        raise ValueError(
            f"{json.dumps(value[:60], ensure_ascii=False)} is not an id: give a UUID, such as"
            " 0b0d6f2e-6a43-4f0c-9d6b-2f6f5f6d9b11"
        )
    return str(uuid.UUID(value))


def clean_or_empty(value: str) -> str:
    """A text cleaned as a name is; the empty text stays empty. Raises: ValueError."""
    return clean_text(value) if value else value


def printable(value: str) -> str:
    """The text as it is. Raises: ValueError where a character of it cannot be seen."""
    if not value.isprintable():
        raise ValueError("contains a control character or an invisible one: remove it")
    return value


Id = Annotated[str, AfterValidator(as_id), Field(json_schema_extra={"format": "uuid"})]
"""The id of a job or an artifact: a UUID in letters of either case, kept in lower case."""
ArtifactId = Id
JobId = Id

Text = Annotated[
    str, AfterValidator(clean_text), Field(json_schema_extra={"minLength": 1, "maxLength": MAX_TEXT})
]
TextOrEmpty = Annotated[str, AfterValidator(clean_or_empty), Field(json_schema_extra={"maxLength": MAX_TEXT})]

SET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)


def as_prompt_set(value: str) -> str:
    """An id as the service writes it, or a set's name as it is. Raises: ValueError."""
    if UUID.fullmatch(value):
        return as_id(value)
    if not SET_NAME.fullmatch(value):
        raise ValueError(
            f"{json.dumps(value[:60], ensure_ascii=False)} is neither an id nor a name: give the id of an"
            " uploaded prompt set, or a name of up to 64 letters, digits, '.', '_' and '-'"
        )
    return value


PromptSet = Annotated[
    str, AfterValidator(as_prompt_set), Field(json_schema_extra={"minLength": 1, "maxLength": 64})
]
"""An uploaded prompt set's id, or the name of one that the deployment has."""

# The pattern stands in the schema alone: whoever names an unknown model is told which models there are.
ModelId = Annotated[
    str,
    AfterValidator(printable),
    Field(
        max_length=200,
        json_schema_extra={"pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"},
        description="A registered model's id; GET /models lists them.",
    ),
]
