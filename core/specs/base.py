"""The strict base of every spec: no unknown fields, and no value that merely looks like a number."""

import json
import re
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", re.ASCII)


def types_in(annotation: Any) -> set[Any]:
    """The types that an annotation admits, those of literal values included, without its metadata."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return {type(value) for value in arguments}
    if origin is Annotated:
        return types_in(arguments[0])
    if origin in (Union, UnionType):
        return set().union(*map(types_in, arguments))
    return {annotation}


def check_exact(annotation: Any, value: Any) -> None:
    """Refuse what pydantic would turn into a number or a boolean: true for 1, "5" for 5, 1 for true.

    Pydantic's strict mode goes too far: it also refuses 5.0 where 5 is meant, which is one number in JSON.
    Raises: ValueError.
    """
    admitted = types_in(annotation) - {NoneType}
    if isinstance(value, bool | str) and admitted and admitted <= {int, float}:
        quoted = isinstance(value, str) and NUMBER.fullmatch(value)
        remedy = ": write it without quotes" if quoted else ""
        raise ValueError(f"must be a number, not {json.dumps(value)[:40]}{remedy}")
    if admitted == {bool} and value is not None and not isinstance(value, bool):
        raise ValueError("must be true or false")
    if isinstance(value, list):
        lists = [each for each in admitted if get_origin(each) is list]
        for member in value:
            for each in lists:
                check_exact(get_args(each)[0], member)


class Spec(BaseModel):
    """Strict base: an unknown field is an error, and so is a string or a boolean in place of a number."""

    model_config = ConfigDict(extra="forbid", validate_default=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def exact_types(cls, data: Any) -> Any:
        wrong = []
        for name, value in data.items() if isinstance(data, dict) else ():
            if name not in cls.model_fields:
                continue
            try:
                check_exact(cls.model_fields[name].annotation, value)
            except ValueError as error:
                kind = PydanticCustomError("not_exact", "{why}", {"why": str(error)})
                wrong.append(InitErrorDetails(type=kind, loc=(name,), input=value))
        if wrong:
            raise ValidationError.from_exception_data(cls.__name__, wrong)
        return data
