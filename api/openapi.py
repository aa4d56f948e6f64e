"""The OpenAPI document:

`python -m expunge.api.openapi` writes openapi.json, `--check` compares it with the app.
"""

import json
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from secrets import token_hex
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import SecretStr
from pydantic.json_schema import models_json_schema

from expunge.api.auth import METRICS, PUBLIC
from expunge.api.problems import ProblemBody
from expunge.store.settings import Settings

FILE = Path(__file__).resolve().parents[1] / "openapi.json"
DESCRIPTION = (
    "Concept erasure for text-to-image diffusion models, as a job: post a takedown, follow it, download a"
    " sanitized model with measured proof. Every error is an RFC 9457 problem. Every POST takes an"
    " Idempotency-Key."
)


def plain(parameter: dict[str, Any]) -> None:
    """An omitted header or query parameter is absent, not null."""
    schema = parameter["schema"]
    schema.pop("description", None)
    members = [member for member in schema.pop("anyOf", []) if member != {"type": "null"}]
    schema.update(members[0] if members else {})


def refs(value: Any) -> Iterator[str]:
    """The names of the schemas that a part of the document leads to."""
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"].rpartition("/")[2]
        for key, inner in value.items():
            if key != "mapping":
                yield from refs(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from refs(inner)


def reached(schemas: dict[str, Any], parts: Iterable[Any]) -> set[str]:
    """The schemas that these parts of the document use, directly or through others."""
    found: set[str] = set()
    todo = {name for part in parts for name in refs(part)}
    while todo:
        found |= todo
        todo = {name for done in todo for name in refs(schemas[done])} - found
    return found


def said(schema: dict[str, Any]) -> None:
    """A default is said in words.

    As a keyword, generators of clients take it for a value that is always there, and cannot read one that is
    an object.
    """
    if "default" in schema:
        default = schema.pop("default")
        if default is not None and not isinstance(default, dict):
            said = json.dumps(default, ensure_ascii=False)
            schema["description"] = f"{schema.get('description', '')} Default: `{said}`.".strip()


def numbers(schema: Any) -> None:
    """A constant number is an enumeration of one, which every generator can write down."""
    if isinstance(schema, dict):
        if isinstance(schema.get("const"), int) and not isinstance(schema["const"], bool):
            schema["enum"] = [schema.pop("const")]
        for inner in schema.values():
            numbers(inner)
    elif isinstance(schema, list):
        for inner in schema:
            numbers(inner)


def for_generators(found: dict[str, Any]) -> None:
    """What clients are generated from: in a request only what must be sent is required, in an answer all that
    is always there.
    """
    schemas, operations = (
        found["components"]["schemas"],
        [op for item in found["paths"].values() for op in item.values()],
    )
    sent = reached(schemas, [op.get("requestBody") for op in operations])
    answered = reached(schemas, [op["responses"] for op in operations]) - {"Problem", "FieldError"}
    for name in sent:
        for schema in schemas[name].get("properties", {}).values():
            said(schema)
    for name in answered - sent:
        properties = schemas[name].get("properties", {})
        schemas[name] |= {"required": list(properties)} if properties else {}
        for schema in properties.values():
            schema.pop("default", None)
    numbers(schemas)


def unwrapped(found: Any) -> None:
    """Texts without the line breaks that only the source's width asks for; paragraphs stay apart."""
    for inner in found.values() if isinstance(found, dict) else found:
        if isinstance(inner, dict | list):
            unwrapped(inner)
    if isinstance(found, dict):
        for key in ("summary", "description"):
            if isinstance(text := found.get(key), str):
                found[key] = re.sub(r"(?<!\n)\n(?!\n)", " ", text)


def document(app: FastAPI) -> dict[str, Any]:
    """OpenAPI 3.1 with problems as the errors' schema, a key needed everywhere but on public paths."""
    if app.openapi_schema is None:
        found = get_openapi(
            title=app.title,
            version=app.version,
            description=DESCRIPTION,
            routes=app.routes,
            tags=app.openapi_tags,
        )
        _, defs = models_json_schema(
            [(ProblemBody, "serialization")], ref_template="#/components/schemas/{model}"
        )
        schemas = found.setdefault("components", {}).setdefault("schemas", {})
        schemas |= defs["$defs"]
        schemas["Problem"] = schemas.pop("ProblemBody")
        for path, item in found["paths"].items():
            for operation in item.values():
                # The docstring's first line
                operation["summary"], _, rest = operation.pop("description").partition("\n\n")
                if rest:
                    operation["description"] = rest
                if "application/json" in operation["responses"].get("422", {}).get("content", {}):
                    # FastAPI's own: ids in paths are checked by the router, as 404
                    del operation["responses"]["422"]
                for parameter in operation.get("parameters", ()):
                    plain(parameter)
                operation["security"] = (
                    [] if path in PUBLIC else [{"MetricsToken" if path == METRICS else "ApiKey": []}]
                )
        found["components"]["securitySchemes"]["MetricsToken"] = {
            "type": "http",
            "scheme": "bearer",
            "description": "`Authorization: Bearer` and the operator's EXPUNGE_METRICS_TOKEN.",
        }
        unused = ("HTTPValidationError", "ValidationError")
        found["components"]["schemas"] = {
            name: schema for name, schema in sorted(schemas.items()) if name not in unused
        }
        for_generators(found)
        unwrapped(found)
        app.openapi_schema = found
    return app.openapi_schema


def text(app: FastAPI) -> str:
    return json.dumps(document(app), indent=2, ensure_ascii=False) + "\n"


def main(arguments: list[str]) -> int:
    from expunge.api.app import create_app

    fresh = text(create_app(Settings(secret=SecretStr(token_hex(32)))))  # it says nothing of the secret
    if "--check" not in arguments:
        FILE.write_text(fresh)
        return 0
    if FILE.exists() and FILE.read_text() == fresh:
        return 0
    sys.stderr.write(
        "openapi.json does not match the app: run 'python -m expunge.api.openapi' and commit it\n"
    )
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
