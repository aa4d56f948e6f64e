"""`python -m expunge.api.openapi` writes openapi.json; with `--check`, compares it with the app instead."""

import json
import sys
from pathlib import Path
from secrets import token_hex

from fastapi import FastAPI
from pydantic import SecretStr

from expunge.api.app import create_app
from expunge.api.openapi_document import build_document
from expunge.store.settings import Settings

FILE = Path(__file__).resolve().parents[1] / "openapi.json"


def text(app: FastAPI) -> str:
    return json.dumps(build_document(app), indent=2, ensure_ascii=False) + "\n"


def main(arguments: list[str]) -> int:
    fresh = text(create_app(Settings(secret=SecretStr(token_hex(32)))))  # the secret is not in the document
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
