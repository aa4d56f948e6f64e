"""What an attempt runs: core.run on the job's spec and inputs. Imports torch only inside the task's process."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from uuid import UUID

from core.errors import CoreError
from core.specs import Concept, EraseSpec, EvaluateSpec
from store import artifacts, db, jobs
from store.blobs import Blobs
from store.errors import NotFound
from store.models import Artifact, Job
from store.settings import Settings

if TYPE_CHECKING:
    from core.run import Outcome
    from worker.checkpoints import JobCheckpoints

DELTA = "pytorch_lora_weights.safetensors"


class Runner(Protocol):
    """Runs a claimed job in an empty folder."""

    def __call__(
        self, job: Job, folder: Path, *, settings: Settings, callback: Callable[[Any], None], checkpoints: "JobCheckpoints"
    ) -> "Outcome": ...


def runner_for(settings: Settings) -> Runner:
    """core's, unless EXPUNGE_RUNNER names another as module:function."""
    if settings.runner is None:
        return run
    module, _, name = settings.runner.partition(":")
    found: Runner = getattr(importlib.import_module(module), name)
    return found


def run(job: Job, folder: Path, *, settings: Settings, callback: Callable[[Any], None], checkpoints: "JobCheckpoints") -> "Outcome":
    """Erase or evaluate, as the job says."""
    from core.run import run_erase, run_evaluate

    spec = (EraseSpec if job.kind == "erase" else EvaluateSpec).model_validate(job.spec)
    if spec.model not in settings.models:
        known = ", ".join(sorted(settings.models))
        raise CoreError("unknown_model", f"this worker has no model '{spec.model}': its EXPUNGE_MODELS lists {known}", field="model")
    context = {"job_id": str(job.id), "attempt": job.attempt, "kind": job.kind, "model": spec.model}
    shared = {"source": settings.models[spec.model], "cache": settings.cache_dir, "signing_key": settings.signing_key, "context": context}
    if isinstance(spec, EraseSpec):
        return run_erase(spec, folder / "out", callback=callback, checkpoints=checkpoints, **shared)  # type: ignore[arg-type]
    delta, concepts = inputs(job, spec, folder, settings)
    return run_evaluate(spec, folder / "out", delta=delta, concepts=concepts, callback=callback, **shared)  # type: ignore[arg-type]


def inputs(job: Job, spec: EvaluateSpec, folder: Path, settings: Settings) -> tuple[Path, list[Concept]]:
    """The delta to judge, fetched and checked, and the concepts it is to have erased."""
    concepts = list(spec.concepts)
    field = "job_id" if spec.job_id else "artifact_id"
    try:
        with db.transaction(settings.database_url.get_secret_value()) as session:
            if spec.job_id is not None:
                judged = jobs.get(session, job.tenant_id, UUID(spec.job_id))
                concepts = concepts or EraseSpec.model_validate(judged.spec).concepts
                row = of_name(artifacts.of_job(session, job.tenant_id, judged.id), DELTA)
            else:
                row = artifacts.get(session, job.tenant_id, UUID(str(spec.artifact_id)))
        path = folder / "delta.safetensors"
        Blobs(settings.artifacts_url).download(row.key, path, row.sha256)
    except NotFound as error:
        raise CoreError("input_not_found", f"{field}: there is no delta to judge: {error}", field=field) from error
    return path, concepts


def of_name(rows: "list[Artifact] | Any", name: str) -> Artifact:
    found = next((row for row in rows if row.name == name), None)
    if found is None:
        raise NotFound(f"the job has no artifact '{name}'")
    return found
