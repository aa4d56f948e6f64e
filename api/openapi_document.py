"""Build the OpenAPI document: FastAPI's own, with problems as errors, and fit for generators of clients."""

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from expunge.api.middleware.authentication import METRICS, PUBLIC
from expunge.api.problems import ProblemBody

DESCRIPTION = (
    "Concept erasure for text-to-image diffusion models, as a job: post a takedown, follow it, download a"
    " sanitized model with measured proof. Every error is an RFC 9457 problem. Every POST takes an"
    " Idempotency-Key."
)
UNUSED_SCHEMAS = ("HTTPValidationError", "ValidationError")


def build_document(app: FastAPI) -> dict[str, Any]:
    """The app's OpenAPI 3.1 document; built once."""
    if app.openapi_schema is not None:
        return app.openapi_schema
    document = get_openapi(
        title=app.title,
        version=app.version,
        description=DESCRIPTION,
        routes=app.routes,
        tags=app.openapi_tags,
    )

    # Problems as the schema of all errors
    _, definitions = models_json_schema(
        [(ProblemBody, "serialization")], ref_template="#/components/schemas/{model}"
    )
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    schemas |= definitions["$defs"]
    schemas["Problem"] = schemas.pop("ProblemBody")

    for path, item in document["paths"].items():
        for operation in item.values():
            finish_operation(path, operation)

    document["components"]["securitySchemes"]["MetricsToken"] = {
        "type": "http",
        "scheme": "bearer",
        "description": "`Authorization: Bearer` with the operator's EXPUNGE_METRICS_TOKEN.",
    }
    document["components"]["schemas"] = {
        name: schema for name, schema in sorted(schemas.items()) if name not in UNUSED_SCHEMAS
    }
    simplify_for_generators(document)
    unwrap_texts(document)
    app.openapi_schema = document
    return document


def finish_operation(path: str, operation: dict[str, Any]) -> None:
    """Set an operation's summary and security, and take out what FastAPI adds without need."""
    # The docstring's first paragraph is the summary
    operation["summary"], _, rest = operation.pop("description").partition("\n\n")
    if rest:
        operation["description"] = rest
    # FastAPI's own 422: ids in paths are checked by the router, and answered 404
    if "application/json" in operation["responses"].get("422", {}).get("content", {}):
        del operation["responses"]["422"]
    for parameter in operation.get("parameters", ()):
        drop_null(parameter)
    scheme = "MetricsToken" if path == METRICS else "ApiKey"
    operation["security"] = [] if path in PUBLIC else [{scheme: []}]


def drop_null(parameter: dict[str, Any]) -> None:
    """An omitted header or query parameter is absent, not null."""
    schema = parameter["schema"]
    schema.pop("description", None)
    members = [member for member in schema.pop("anyOf", []) if member != {"type": "null"}]
    schema.update(members[0] if members else {})


def simplify_for_generators(document: dict[str, Any]) -> None:
    """State what generators of clients need.

    In a request only what must be sent is required; in an answer, everything that is always there.
    """
    schemas = document["components"]["schemas"]
    operations = [operation for item in document["paths"].values() for operation in item.values()]
    in_requests = reachable_schemas(schemas, [operation.get("requestBody") for operation in operations])
    in_answers = reachable_schemas(schemas, [operation["responses"] for operation in operations])
    in_answers -= {"Problem", "FieldError"}
    for name in in_requests:
        for schema in schemas[name].get("properties", {}).values():
            describe_default(schema)
    for name in in_answers - in_requests:
        properties = schemas[name].get("properties", {})
        if properties:
            schemas[name]["required"] = list(properties)
        for schema in properties.values():
            schema.pop("default", None)
    replace_constant_numbers(schemas)


def reachable_schemas(schemas: dict[str, Any], parts: Iterable[Any]) -> set[str]:
    """The names of the schemas that these parts of the document refer to, directly or through others."""
    found: set[str] = set()
    todo = {name for part in parts for name in references_in(part)}
    while todo:
        found |= todo
        todo = {name for done in todo for name in references_in(schemas[done])} - found
    return found


def references_in(value: Any) -> Iterator[str]:
    """The names of the schemas that a part of the document refers to directly."""
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"].rpartition("/")[2]
        for key, inner in value.items():
            if key != "mapping":
                yield from references_in(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references_in(inner)


def describe_default(schema: dict[str, Any]) -> None:
    """Move a default into the description.

    As a keyword, generators treat it as a value that is always present, and cannot handle an object.
    """
    default = schema.pop("default", None)
    if default is not None and not isinstance(default, dict):
        shown = json.dumps(default, ensure_ascii=False)
        schema["description"] = f"{schema.get('description', '')} Default: `{shown}`.".strip()


def replace_constant_numbers(schema: Any) -> None:
    """Write a constant number as an enumeration of one, which every generator supports."""
    if isinstance(schema, dict):
        if isinstance(schema.get("const"), int) and not isinstance(schema["const"], bool):
            schema["enum"] = [schema.pop("const")]
        for inner in schema.values():
            replace_constant_numbers(inner)
    elif isinstance(schema, list):
        for inner in schema:
            replace_constant_numbers(inner)


def unwrap_texts(part: Any) -> None:
    """Remove the line breaks of the source from summaries and descriptions; keep paragraphs."""
    for inner in part.values() if isinstance(part, dict) else part:
        if isinstance(inner, dict | list):
            unwrap_texts(inner)
    if isinstance(part, dict):
        for key in ("summary", "description"):
            if isinstance(text := part.get(key), str):
                part[key] = re.sub(r"(?<!\n)\n(?!\n)", " ", text)
