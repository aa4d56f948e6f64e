"""The models that jobs may name."""

from pathlib import Path
from typing import Literal

from fastapi import APIRouter

from api import vocabularies
from api.deltas import directory
from api.deps import JSON, JobsReader, ServicesDep, accepts
from api.problems import responses
from api.schemas import Model, ModelList, Vocabulary

EXAMPLES = 24
router = APIRouter(tags=["models"], dependencies=[accepts(JSON)])


def vocabulary(folder: Path | None) -> Vocabulary | None:
    file = vocabularies.of_folder(folder)
    if file is None:
        return None
    found = vocabularies.read(*file)
    concepts: list[str] = found.get("concepts", [])
    step = max(1, len(concepts) // EXAMPLES)
    return Vocabulary(concepts=len(concepts), styles=found.get("styles", []), examples=concepts[::step][:EXAMPLES])


def describe(id_: str, source: str) -> Model:
    folder = directory(source)
    kind: Literal["bundled", "local", "hub"] = "bundled" if source.startswith("bundled:") else "local" if folder else "hub"
    title = {"bundled": f"The bundled model '{source.removeprefix('bundled:')}'", "local": f"A model of this server: {id_}", "hub": source}[
        kind
    ]
    return Model(id=id_, title=title, kind=kind, vocabulary=vocabulary(folder))


@router.get("/models", responses=responses())
def list_models(services: ServicesDep, _: JobsReader) -> ModelList:
    """List the models that jobs may name."""
    return ModelList(items=[describe(id_, source) for id_, source in services.settings.models.items()])
