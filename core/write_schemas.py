"""`python -m expunge.core.write_schemas` writes the JSON schemas anew from the pydantic models; with
`--check`, compares them instead.
"""

import json
import sys
from typing import Any

from pydantic import BaseModel

from expunge.core import json_schemas
from expunge.core.delivery.certificate import Certificate
from expunge.core.evaluation.report import Report
from expunge.core.inspection import Inspection

MODELS: dict[str, type[BaseModel]] = {
    "report-1": Report,
    "inspection-1": Inspection,
    "certificate-1": Certificate,
}
DRAFT = "https://json-schema.org/draft/2020-12/schema"


def generate(name: str) -> str:
    """The schema's text, from its model. A field with a default may be missing, and unknown ones are allowed,
    so that what other releases of the same version write is valid too.
    """
    head = {"$schema": DRAFT, "$id": f"urn:expunge:{name.replace('-', ':')}"}
    schema = head | opened(MODELS[name].model_json_schema())
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
    for name in MODELS:
        file, text = json_schemas.HOME / f"{name}.json", generate(name)
        if "--check" not in arguments:
            file.write_text(text)
        elif not file.exists() or file.read_text() != text:
            stale.append(file.name)
    if stale:
        command = "python -m expunge.core.write_schemas"
        sys.stderr.write(f"{', '.join(stale)}: the models say otherwise: run '{command}' and commit it\n")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
