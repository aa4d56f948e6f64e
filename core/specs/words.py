"""Which texts of a spec are a client's own words, as opposed to names, ids and choices of ours.

The specs' types tell, so that no list must be kept when a field is added.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from expunge.core.specs import SPECS
from expunge.core.specs.base import Spec
from expunge.core.specs.impact import ImpactSpec

Schema = Mapping[str, Any]


@lru_cache
def roots() -> tuple[tuple[Schema, Schema], ...]:
    """(JSON schema, its definitions) of every spec that a client may send."""
    specs: list[type[Spec]] = [*SPECS.values(), ImpactSpec]
    schemas = [spec.model_json_schema() for spec in specs]
    return tuple((schema, schema.get("$defs", {})) for schema in schemas)


def own_words(spec: Any) -> Iterator[str]:
    """Every text, label keys included, that no spec restricts to a list of values or a pattern; texts in
    unknown fields too.
    """
    return walk(spec, list(roots()))


def walk(value: Any, admitted: Sequence[tuple[Schema, Schema]]) -> Iterator[str]:
    """The client's words in a value. `admitted`: the schemas it may have, each with its definitions."""
    plain = [each for schema, definitions in admitted for each in alternatives(schema, definitions)]
    match value:
        case str():
            texts = [schema for schema, _ in plain if is_text(schema)]
            if any(free(schema) for schema in texts) or not any(fixed(value, schema) for schema in texts):
                yield value
        case Mapping():
            for key, inner in value.items():
                named = [(s["properties"][key], d) for s, d in plain if key in s.get("properties", {})]
                others = [(s["additionalProperties"], d) for s, d in plain if is_open(s)]
                if not named:
                    yield str(key)
                yield from walk(inner, named or others)
        case Sequence():
            for inner in value:
                yield from walk(inner, [(s["items"], d) for s, d in plain if "items" in s])
        case _:
            pass


def alternatives(schema: Schema, definitions: Schema) -> Iterator[tuple[Schema, Schema]]:
    """The schemas that a schema stands for, its references and choices resolved."""
    if "$ref" in schema:
        yield from alternatives(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    elif choices := [*schema.get("anyOf", ()), *schema.get("oneOf", ()), *schema.get("allOf", ())]:
        for choice in choices:
            yield from alternatives(choice, definitions)
    else:
        yield schema, definitions


def is_text(schema: Schema) -> bool:
    """Whether a schema is that of a text."""
    return schema.get("type") == "string" or "enum" in schema or "const" in schema


def is_open(schema: Schema) -> bool:
    """Whether an object may have properties of the client's own naming."""
    return isinstance(schema.get("additionalProperties"), Mapping)


def free(schema: Schema) -> bool:
    """Whether a schema admits any text."""
    return not schema.keys() & {"enum", "const", "pattern", "contentEncoding", "format"}


def fixed(value: str, schema: Schema) -> bool:
    """Whether a text is one of ours: a name that the schema lists, an id, a key."""
    if "pattern" in schema:
        return re.search(schema["pattern"], value) is not None
    if "enum" in schema:
        return value in schema["enum"]
    if "const" in schema:
        return bool(value == schema["const"])
    return not free(schema)
