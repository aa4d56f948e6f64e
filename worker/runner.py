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
    EraseSpec,
    EvaluateSpec,
    HideSpec,
    InspectSpec,
    JudgeSpec,
)
from expunge.core.specs.fields import UUID as UUID_TEXT
from expunge.store import artifacts, db, jobs
from expunge.store.blobs import Blobs
from expunge.store.errors import NotFound
from expunge.store.models import Artifact, Job
from expunge.store.settings import Settings
from expunge.worker import signing

if TYPE_CHECKING:
    from expunge.core.outcome import Outcome
    from expunge.worker.checkpoints import JobCheckpoints

REPORT, WORD = "report.json", "embedding-"  # a file's name, and how those of learned words begin
SUFFIXES = (".safetensors", ".json", ".png", ".jpg", ".jpeg", ".webp", ".csv", ".jsonl")


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


def find_runner(settings: Settings) -> Runner:
    """core's runner, unless EXPUNGE_RUNNER names another as module:function."""
    if settings.runner is None:
        return run
    found: Runner = getattr(import_module_of(settings.runner), settings.runner.partition(":")[2])
    return found


def import_module_of(runner: str) -> ModuleType:
    """The module of module:function."""
    return importlib.import_module(runner.partition(":")[0])


def run(
    job: Job,
    folder: Path,
    *,
    settings: Settings,
    callback: Callable[[Any], None],
    checkpoints: "JobCheckpoints",
) -> "Outcome":
    """Run a job's spec with core, by its kind."""
    from expunge.core import run as science

    # What every kind of job needs.
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
        "signing_key": signing.load_signing_key(settings),
        "context": context,
        "callback": callback,
    }
    inputs, out = Inputs(job, folder, settings), folder / "out"
    if isinstance(spec, EraseSpec | CombineSpec | EvaluateSpec):
        shared["judge_file"] = inputs.fetch_judge(spec.evaluation.judge)
        if spec.evaluation.prompts is not None:
            shared["prompt_set"] = inputs.fetch_prompt_set(spec.evaluation.prompts)

    # What this kind needs, and the run.
    match spec:
        case HideSpec():
            return science.run_hide(spec, out, key_folder=folder / "key", checkpoints=checkpoints, **shared)
        case EraseSpec():
            if spec.base_job_id is not None:
                shared["base"] = inputs.fetch_from_job(spec.base_job_id, (LORA_FILE,), "base_job_id")
                shared["base_report"] = inputs.fetch_report(spec.base_job_id)
            images = inputs.fetch_images(spec)
            return science.run_erase(spec, out, checkpoints=checkpoints, images=images, **shared)
        case CombineSpec():
            deltas = [inputs.fetch_own_delta(job_id) for job_id in spec.jobs]
            restored = inputs.list_restored(spec)
            return science.run_combine(spec, out, deltas=deltas, restored=restored, **shared)
        case EvaluateSpec():
            delta = inputs.fetch_delta(spec.job_id, str(spec.artifact_id))
            words = inputs.fetch_learned_words(spec)
            return science.run_evaluate(
                spec,
                out,
                delta=delta,
                concepts=list(spec.concepts),
                words=words,
                manifest=inputs.fetch_manifest(spec.job_id) if spec.job_id else None,
                **shared,
            )
        case InspectSpec():
            delta, against = inputs.fetch_delta(spec.job_id, str(spec.artifact_id)), None
            if spec.against_job_id or spec.against_artifact_id:
                against = inputs.fetch_delta(
                    spec.against_job_id, str(spec.against_artifact_id), prefix="against_"
                )
            return science.run_inspect(spec, out, delta=delta, against=against, **shared)
        case _:
            raise TypeError(f"no runner for {type(spec).__name__}")


class Inputs:
    """Fetches what a job builds on or judges into its folder, checked by sha256."""

    def __init__(self, job: Job, folder: Path, settings: Settings) -> None:
        self.job, self.folder = job, folder
        self.settings = settings
        self.url = settings.database_url.get_secret_value()

    def fetch(self, row: Artifact) -> Path:
        """Download an artifact to a file named by its id: its own name may be longer than file systems
        allow.
        """
        suffix = Path(row.name).suffix
        path = self.folder / f"{row.id}{suffix if suffix in SUFFIXES else ''}"
        Blobs(self.settings.artifacts_url).download(row.key, path, row.sha256)
        return path

    def fetch_from_job(self, job_id: str, names: Sequence[str], field: str) -> Path:
        """Fetch the first of `names` that the job has delivered.

        Raises: CoreError `input_not_found`, of this field of the spec.
        """
        try:
            rows = {row.name: row for row in self.list_artifacts(job_id)}
            row = next((rows[name] for name in names if name in rows), None)
            if row is None:
                raise NotFound(f"job {job_id} has no artifact {' or '.join(map(repr, names))}")
            return self.fetch(row)
        except NotFound as error:
            raise CoreError("input_not_found", f"{field}: {error}", field=field) from error

    def fetch_upload(self, artifact_id: str, field: str, what: str) -> Path:
        """Fetch what a client uploaded, which is `what`.

        Raises: CoreError `input_not_found`, of this field of the spec.
        """
        try:
            with db.transaction(self.url) as session:
                row = artifacts.get(session, self.job.tenant_id, UUID(artifact_id))
            return self.fetch(row)
        except NotFound as error:
            message = f"{field}: there is no {what} {artifact_id}: {error}"
            raise CoreError("input_not_found", message, field=field) from error

    def list_artifacts(self, job_id: str) -> Sequence[Artifact]:
        with db.transaction(self.url) as session:
            return artifacts.list_of_job(session, self.job.tenant_id, UUID(job_id))

    def fetch_images(self, spec: EraseSpec) -> dict[str, Path]:
        """Fetch the uploads that concepts name, by id."""
        ids = [id_ for concept in spec.concepts for id_ in (*concept.images, *concept.masks)]
        return {id_: self.fetch_upload(id_, "concepts", "image") for id_ in dict.fromkeys(ids)}

    def fetch_prompt_set(self, name: str) -> Path:
        """Fetch an uploaded prompt set by its id, or find the file of a set that this worker has.

        Raises: CoreError `input_not_found`.
        """
        if UUID_TEXT.fullmatch(name):
            return self.fetch_upload(name, "evaluation.prompts", "prompt set")
        file = Path(self.settings.prompt_sets.get(name, ""))
        if not file.is_file():
            raise CoreError(
                "input_not_found",
                f"evaluation.prompts: this worker has no prompt set '{name}': add its file to"
                " EXPUNGE_PROMPT_SETS",
                field="evaluation.prompts",
            )
        return file

    def fetch_learned_words(self, spec: EvaluateSpec) -> list[Path]:
        """Fetch the files of the words that the judged job has learned."""
        if spec.job_id is None:
            return []
        return [self.fetch(row) for row in self.list_artifacts(spec.job_id) if row.name.startswith(WORD)]

    def fetch_own_delta(self, job_id: str) -> Path:
        """Fetch a job's own delta, without those it stands on."""
        return self.fetch_from_job(job_id, (ADDED_FILE, LORA_FILE), "jobs")

    def fetch_report(self, job_id: str) -> Path | None:
        """Fetch report.json; None where the job was not judged."""
        try:
            return self.fetch_from_job(job_id, (REPORT,), "base_job_id")
        except CoreError:
            return None

    def fetch_manifest(self, job_id: str) -> Path | None:
        """Fetch manifest.json; None where the job has none any more."""
        try:
            return self.fetch_from_job(job_id, ("manifest.json",), "job_id")
        except CoreError:
            return None

    def fetch_delta(self, job_id: str | None, artifact_id: str, prefix: str = "") -> Path:
        """Fetch the delta of a job, else of an upload; `prefix` of the spec's fields that name it."""
        if job_id is None:
            return self.fetch_upload(artifact_id, f"{prefix}artifact_id", "delta")
        return self.fetch_from_job(job_id, (LORA_FILE, MASK_FILE), f"{prefix}job_id")

    def fetch_judge(self, judge: JudgeSpec | None) -> Path | None:
        """Fetch the judge that the client uploaded; None where the request names none."""
        if judge is None or judge.artifact_id is None:
            return None
        return self.fetch_upload(judge.artifact_id, "evaluation.judge.artifact_id", "judge")

    def list_restored(self, spec: CombineSpec) -> list[str]:
        """Names of the concepts that stacks of the combined jobs erase and the combination does not."""
        tenant_id, members = self.job.tenant_id, list[Job]()
        with db.transaction(self.url) as session:
            for job_id in spec.jobs:
                members += jobs.list_stack(session, tenant_id, jobs.get(session, tenant_id, UUID(job_id)))
            left_out = [job for job in members if str(job.id) not in spec.jobs]
            names = [concept["name"] for job in left_out for concept in job.spec["concepts"]]
        return list(dict.fromkeys(names))
