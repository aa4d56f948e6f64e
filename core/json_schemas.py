"""JSON schemas of what a bundle says, by name and version: core/schemas, which docs/schemas links to.

`python -m expunge.core.json_schemas` writes them anew from the pydantic models; with `--check`, compares
instead. Reading them needs no torch. Within a version, fields are only added, and those may be missing;
readers pass over fields that they do not know.
"""

import json
import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel

HOME = Path(__file__).parent / "schemas"
NAMES = ("report-1", "inspection-1", "certificate-1")
DRAFT = "https://json-schema.org/draft/2020-12/schema"


def read(name: str) -> dict[str, Any]:
    """The schema of this name, as it was written."""
    found: dict[str, Any] = json.loads((HOME / f"{name}.json").read_text())
    return found


def generate(name: str) -> str:
    """The schema's text, from its model. A field with a default may be missing, and unknown ones are allowed,
    so that what other releases of the same version write is valid too.
    """
    from expunge.core.delivery.certificate import Certificate
    from expunge.core.evaluation.report import Report  # here: it brings torch
    from expunge.core.inspection import Inspection

    models: dict[str, type[BaseModel]] = {
        "report-1": Report,
        "inspection-1": Inspection,
        "certificate-1": Certificate,
    }
    head = {"$schema": DRAFT, "$id": f"urn:expunge:{name.replace('-', ':')}"}
    schema = head | opened(models[name].model_json_schema())
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def opened(schema: Any) -> Any:
    """The schema without bans on further properties."""
    if isinstance(schema, list):
        return [opened(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    bans = schema.get("additionalProperties") is False
    return {key: opened(each) for key, each in schema.items() if not (bans and key == "additionalProperties")}


def main(arguments: list[str]) -> int:
    stale = list[str]()
    for name in NAMES:
        file, text = HOME / f"{name}.json", generate(name)
        if "--check" not in arguments:
            file.write_text(text)
        elif not file.exists() or file.read_text() != text:
            stale.append(file.name)
    if stale:
        command = "python -m expunge.core.json_schemas"
        sys.stderr.write(f"{', '.join(stale)}: the models say otherwise: run '{command}' and commit it\n")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
