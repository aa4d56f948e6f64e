"""What an attempt runs: expunge.core.run on the job's spec and inputs.

Imports torch only inside the task's process.
"""

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol
from uuid import UUID

from expunge.core.delta_format import ADDED_FILE, LORA_FILE, MASK_FILE
from expunge.core.errors import CoreError
from expunge.core.specs import (
    ACCEPTED,
    SPECS,
    CombineSpec,
    Concept,
    EraseSpec,
    EvaluateSpec,
    HideSpec,
    InspectSpec,
)
from expunge.store import artifacts, db, jobs
from expunge.store.blobs import Blobs
from expunge.store.errors import NotFound
from expunge.store.models import Artifact, Job
from expunge.store.settings import Settings
from expunge.worker import signing

if TYPE_CHECKING:
    from expunge.core.outcome import Outcome
    from expunge.worker.checkpoints import JobCheckpoints

REPORT, WORD = "report.json", "embedding-"
SUFFIXES = (".safetensors", ".json", ".png", ".jpg", ".jpeg", ".webp")


class Runner(Protocol):
    """Runs a claimed job in an empty folder."""

    def __call__(
        self,
        job: Job,
        folder: Path,
        *,
        settings: Settings,
        callback: Callable[[Any], None],
        checkpoints: "JobCheckpoints",
    ) -> "Outcome": ...


def runner_for(settings: Settings) -> Runner:
    """core's, unless EXPUNGE_RUNNER names another as module:function."""
    if settings.runner is None:
        return run
    found: Runner = getattr(module_of(settings.runner), settings.runner.partition(":")[2])
    return found


def module_of(runner: str) -> ModuleType:
    """Of module:function."""
    return importlib.import_module(runner.partition(":")[0])


def run(
    job: Job,
    folder: Path,
    *,
    settings: Settings,
    callback: Callable[[Any], None],
    checkpoints: "JobCheckpoints",
) -> "Outcome":
    """Whatever the job's kind asks for."""
    from expunge.core import run as science

    spec = SPECS[job.kind].model_validate(job.spec, context=ACCEPTED)
    if spec.model not in settings.models:
        known = ", ".join(sorted(settings.models))
        raise CoreError(
            "unknown_model",
            f"this worker has no model '{spec.model}': its EXPUNGE_MODELS lists {known}",
            field="model",
        )
    context = {"job_id": str(job.id), "attempt": job.attempt, "kind": job.kind, "model": spec.model}
    shared: dict[str, Any] = {
        "source": settings.models[spec.model],
        "cache": settings.cache_dir,
        "signing_key": signing.key_of(settings),
        "context": context,
        "callback": callback,
    }
    inputs, out = Inputs(job, folder, settings), folder / "out"
    match spec:
        case HideSpec():
            return science.run_hide(spec, out, key_folder=folder / "key", checkpoints=checkpoints, **shared)
        case EraseSpec() if spec.base_job_id is not None:
            below: dict[str, Any] = {
                "base": inputs.of_job(spec.base_job_id, LORA_FILE, "base_job_id"),
                "base_report": inputs.report(spec.base_job_id),
            }
            return science.run_erase(
                spec, out, checkpoints=checkpoints, images=inputs.images(spec), **below, **shared
            )
        case EraseSpec():
            return science.run_erase(spec, out, checkpoints=checkpoints, images=inputs.images(spec), **shared)
        case CombineSpec():
            return science.run_combine(
                spec,
                out,
                deltas=[inputs.own(id_) for id_ in spec.jobs],
                restored=inputs.left_out(spec),
                **shared,
            )
        case EvaluateSpec():
            judged, concepts = inputs.judged(spec)
            return science.run_evaluate(
                spec, out, delta=judged, concepts=concepts, words=inputs.words(spec), **shared
            )
        case InspectSpec():
            delta = inputs.delta(spec.job_id, str(spec.artifact_id), "")
            other = spec.against_job_id or spec.against_artifact_id
            against = (
                inputs.delta(spec.against_job_id, str(spec.against_artifact_id), "against_")
                if other
                else None
            )
            return science.run_inspect(spec, out, delta=delta, against=against, **shared)
        case _:
            raise TypeError(f"no runner for {type(spec).__name__}")


class Inputs:
    """What a job builds on or judges, fetched into its folder and checked by sha256."""

    def __init__(self, job: Job, folder: Path, settings: Settings) -> None:
        self.job, self.folder, self.settings = job, folder, settings
        self.url = settings.database_url.get_secret_value()

    def of_job(self, job_id: str, names: str | Sequence[str], field: str) -> Path:
        """The first of `names` that the job has delivered."""
        wanted = [names] if isinstance(names, str) else names
        try:
            with db.transaction(self.url) as session:
                rows = {
                    row.name: row for row in artifacts.list_of_job(session, self.job.tenant_id, UUID(job_id))
                }
            row = next((rows[name] for name in wanted if name in rows), None)
            if row is None:
                raise NotFound(f"job {job_id} has no artifact {' or '.join(map(repr, wanted))}")
            return self.fetch(row)
        except NotFound as error:
            raise CoreError("input_not_found", f"{field}: {error}", field=field) from error

    def fetch(self, row: Artifact) -> Path:
        """To a file named by the artifact's id: a name of a client's may be longer than a file's may be."""
        path = self.folder / f"{row.id}{Path(row.name).suffix if Path(row.name).suffix in SUFFIXES else ''}"
        Blobs(self.settings.artifacts_url).download(row.key, path, row.sha256)
        return path

    def images(self, spec: EraseSpec) -> dict[str, Path]:
        """The uploads that concepts name, by id."""
        found = dict[str, Path]()
        for id_ in dict.fromkeys(i for c in spec.concepts for i in (*c.images, *c.masks)):
            try:
                with db.transaction(self.url) as session:
                    row = artifacts.get(session, self.job.tenant_id, UUID(id_))
                found[id_] = self.fetch(row)
            except NotFound as error:
                raise CoreError(
                    "input_not_found", f"concepts: there is no image {id_}: {error}", field="concepts"
                ) from error
        return found

    def words(self, spec: EvaluateSpec) -> list[Path]:
        """The files of the words that the judged job has learned."""
        if spec.job_id is None:
            return []
        with db.transaction(self.url) as session:
            rows = artifacts.list_of_job(session, self.job.tenant_id, UUID(spec.job_id))
        return [self.fetch(row) for row in rows if row.name.startswith(WORD)]

    def own(self, job_id: str) -> Path:
        """A job's own delta, without what it stands on."""
        return self.of_job(job_id, (ADDED_FILE, LORA_FILE), "jobs")

    def report(self, job_id: str) -> Path | None:
        """report.json, where the job was judged."""
        try:
            return self.of_job(job_id, REPORT, "base_job_id")
        except CoreError:
            return None

    def left_out(self, spec: CombineSpec) -> list[str]:
        """Names of what the stacks of the combined jobs hold beside them."""
        with db.transaction(self.url) as session:
            members = [
                m
                for id_ in spec.jobs
                for m in jobs.list_stack(
                    session, self.job.tenant_id, jobs.get(session, self.job.tenant_id, UUID(id_))
                )
            ]
            return list(
                dict.fromkeys(
                    c["name"] for m in members if str(m.id) not in spec.jobs for c in m.spec["concepts"]
                )
            )

    def delta(self, job_id: str | None, artifact_id: str, prefix: str) -> Path:
        """The delta of a job, or else of an upload. `prefix` of the fields that name it."""
        return (
            self.upload(artifact_id, f"{prefix}artifact_id")
            if job_id is None
            else self.of_job(job_id, (LORA_FILE, MASK_FILE), f"{prefix}job_id")
        )

    def judged(self, spec: EvaluateSpec) -> tuple[Path, list[Concept]]:
        """The delta to judge and the concepts it is to have erased."""
        if spec.job_id is not None:
            return self.of_job(spec.job_id, (LORA_FILE, MASK_FILE), "job_id"), list(spec.concepts)
        return self.upload(str(spec.artifact_id), "artifact_id"), list(spec.concepts)

    def upload(self, artifact_id: str, field: str) -> Path:
        """An uploaded delta."""
        try:
            with db.transaction(self.url) as session:
                row = artifacts.get(session, self.job.tenant_id, UUID(artifact_id))
            return self.fetch(row)
        except NotFound as error:
            raise CoreError(
                "input_not_found", f"{field}: there is no such delta: {error}", field=field
            ) from error
