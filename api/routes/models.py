"""The models that jobs may name."""

from pathlib import Path

from fastapi import APIRouter

from expunge.api import model_registry
from expunge.api.deps import JSON, JobsReader, ServicesDep, accepts
from expunge.api.responses import problem_responses
from expunge.api.schemas.models import Model, ModelList, Vocabulary
from expunge.api.services import Services
from expunge.api.vocabularies import read_vocabulary, vocabulary_file
from expunge.core.sources import folder_of, parse

EXAMPLES = 24  # concepts shown of a vocabulary
router = APIRouter(tags=["models"], dependencies=[accepts(JSON)])


def vocabulary_of(folder: Path | None) -> Vocabulary | None:
    file = vocabulary_file(folder)
    if file is None:
        return None
    found = read_vocabulary(file)
    concepts: list[str] = found.get("concepts", [])
    step = max(1, len(concepts) // EXAMPLES)
    return Vocabulary(
        concepts=len(concepts), styles=found.get("styles", []), examples=concepts[::step][:EXAMPLES]
    )


def describe_model(services: Services, id_: str) -> Model:
    source = parse(services.settings.models[id_])
    titles = {
        "bundled": f"The bundled model '{source.name}'",
        "local": f"A model of this server: {id_}",
        "hub": source.name,
    }
    here, usable, problem = model_registry.availability(services, id_)
    return Model(
        id=id_,
        title=titles[source.kind],
        kind=source.kind,
        revision=source.revision,
        architecture=here.architecture,
        methods=model_registry.methods_for(here),
        usable=usable,
        problem=problem,
        vocabulary=vocabulary_of(folder_of(services.settings.models[id_])),
    )


@router.get("/models", responses=problem_responses())
def list_models(services: ServicesDep, _: JobsReader) -> ModelList:
    """List the models that jobs may name."""
    return ModelList(items=[describe_model(services, id_) for id_ in services.settings.models])
