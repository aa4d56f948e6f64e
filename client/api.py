"""The client: `Expunge`, with one method for each thing that the service does."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar, cast

from expunge.client import settings
from expunge.client.download import download_artifact
from expunge.client.errors import NoRecoveryKey
from expunge.client.events import follow_events, poll_events
from expunge.client.requests import (
    ConceptLike,
    MethodLike,
    compared_jobs,
    concept_list,
    delta_fields,
    erase_spec,
    id_of,
    inspect_spec,
    job_filters,
    path_id,
    submit_path,
)
from expunge.client.transport import Transport
from expunge.client.types import (
    Answer,
    Artifact,
    ArtifactLink,
    Comparison,
    Event,
    Impact,
    Job,
    KeyRead,
    Model,
    Page,
    Queue,
    Validated,
)
from expunge.client.upload import image_type, prompt_set_type, upload_file

AnAnswer = TypeVar("AnAnswer", bound=Answer)
Item = TypeVar("Item")


class Expunge:
    """A client of one Expunge service, whose errors are all `ExpungeError`s.

    `url` and `api_key` come from EXPUNGE_URL and EXPUNGE_API_KEY unless given. Raises: BadSetting where one
    of them is unusable.
    """

    def __init__(
        self, url: str | None = None, api_key: str | None = None, *, retries: int = 5, timeout: float = 60.0
    ) -> None:
        self.url = settings.base_url(url)
        self.transport = Transport(self.url, settings.api_key(api_key), retries=retries, timeout=timeout)

    def __repr__(self) -> str:
        return f"Expunge({self.transport.url!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.transport.http.close()

    def _ask(self, answer: type[AnAnswer], method: str, path: str, **request: Any) -> AnAnswer:
        return answer.model_validate(self.transport.json(method, path, **request))

    def _items(self, page: type[Page[Item]], path: str, **params: Any) -> Iterator[Item]:
        """Every item of a list, page by page."""
        while True:
            found = self._ask(page, "GET", path, params={"limit": 100, **params})
            yield from found.items
            if found.next_cursor is None:
                return
            params["cursor"] = found.next_cursor

    # Submitting jobs

    def submit(
        self,
        kind: str,
        spec: Mapping[str, Any],
        *,
        idempotency_key: str | None = None,
        prefer_wait: int | None = None,
    ) -> Job:
        """Submit a whole spec, as the OpenAPI document describes it.

        `prefer_wait`: seconds in which the service may answer with the ended job.
        """
        headers = {"Prefer": f"wait={prefer_wait}"} if prefer_wait else None
        return self._ask(
            Job, "POST", submit_path(kind), json=dict(spec), headers=headers, idempotency_key=idempotency_key
        )

    def validate(self, kind: str, spec: Mapping[str, Any]) -> Validated:
        """Check a spec without storing anything: the spec with every default, and notes about it."""
        return self._ask(Validated, "POST", submit_path(kind), json=dict(spec), params={"dry_run": "true"})

    def erase(
        self,
        concepts: ConceptLike | Sequence[ConceptLike],
        *,
        model: str = "emoji",
        method: MethodLike = "age",
        preserve: Sequence[str] = (),
        idempotency_key: str | None = None,
        **more: Any,
    ) -> Job:
        """Start erasing concepts from a model.

        `more`: seed, fused, evaluation, labels, queue_timeout_s, run_timeout_s.
        """
        spec = erase_spec(concepts, model=model, method=method, preserve=preserve, **more)
        return self.submit("erase", spec, idempotency_key=idempotency_key)

    def combine(
        self,
        jobs: Sequence[Job | str],
        *,
        model: str = "emoji",
        idempotency_key: str | None = None,
        **more: Any,
    ) -> Job:
        """Sum the deltas of finished erase jobs; leaving one of a stack out undoes it.

        `more`: fused, evaluation, labels, queue_timeout_s, run_timeout_s.
        """
        spec = {"model": model, "jobs": [id_of(job) for job in jobs], **more}
        return self.submit("combine", spec, idempotency_key=idempotency_key)

    def hide(
        self,
        concepts: ConceptLike | Sequence[ConceptLike],
        *,
        model: str = "emoji",
        method: MethodLike = "age",
        preserve: Sequence[str] = (),
        seal_to: str | None = None,
        idempotency_key: str | None = None,
        **more: Any,
    ) -> Job:
        """Start hiding concepts behind a recovery key.

        `seal_to`: an X25519 public key, base64, to which the recovery key is encrypted. `more`: recovery,
        seed, fused, evaluation, labels, queue_timeout_s, run_timeout_s.
        """
        if seal_to is not None:
            more["seal_to"] = seal_to
        spec = erase_spec(concepts, model=model, method=method, preserve=preserve, **more)
        return self.submit("hide", spec, idempotency_key=idempotency_key)

    def evaluate(
        self,
        *,
        job: Job | str | None = None,
        artifact: Artifact | str | None = None,
        concepts: ConceptLike | Sequence[ConceptLike] = (),
        model: str = "emoji",
        idempotency_key: str | None = None,
        **more: Any,
    ) -> Job:
        """Evaluate a finished job's delta, or an uploaded one, for which the concepts must be named.

        `more`: evaluation, labels, queue_timeout_s, run_timeout_s.
        """
        spec = {"model": model, "concepts": concept_list(concepts), **delta_fields(job, artifact), **more}
        return self.submit("evaluate", spec, idempotency_key=idempotency_key)

    def inspect(
        self,
        *,
        job: Job | str | None = None,
        artifact: Artifact | str | None = None,
        against: Job | Artifact | str | None = None,
        concept: ConceptLike | None = None,
        concept_space: str | Sequence[str] = "model",
        model: str = "emoji",
        idempotency_key: str | None = None,
        **more: Any,
    ) -> Job:
        """Rank the concepts that moved most from the base model to a job's or an uploaded delta.

        `against`: compare with a job (or its id) or an uploaded Artifact instead of the base model.
        `concept`: what was changed; found where omitted. `more`: locality, trajectories, timesteps, top,
        pictures, seed, labels, queue_timeout_s, run_timeout_s.
        """
        spec = inspect_spec(
            job=job,
            artifact=artifact,
            against=against,
            concept=concept,
            concept_space=concept_space,
            model=model,
            **more,
        )
        return self.submit("inspect", spec, idempotency_key=idempotency_key)

    def impact(
        self,
        concepts: ConceptLike | Sequence[ConceptLike],
        *,
        model: str = "emoji",
        method: MethodLike = "age",
        top: int = 10,
        targets: int = 3,
    ) -> Impact:
        """Predict what an erasure would hurt, the best targets and the cost, from the model's concept graph.

        No job is run.
        """
        body: dict[str, Any] = {"model": model, "concepts": concept_list(concepts), "method": method}
        body |= {"top": top, "targets": targets}
        return self._ask(Impact, "POST", "/concepts/impact", json=body)

    def cancel(self, job: Job | str) -> Job:
        """Cancel a job; a running one stops at its next step."""
        return self._ask(Job, "POST", f"/jobs/{path_id(job)}/cancel")

    def retry(self, job: Job | str, *, idempotency_key: str | None = None) -> Job:
        """Submit a failed, cancelled or expired job's spec again, as a new job."""
        return self._ask(Job, "POST", f"/jobs/{path_id(job)}/retry", idempotency_key=idempotency_key)

    # Jobs, models and the queue

    def job(self, job: Job | str) -> Job:
        """The job as it is now."""
        return self._ask(Job, "GET", f"/jobs/{path_id(job)}")

    def jobs_page(
        self,
        *,
        kind: str | None = None,
        status: str | None = None,
        labels: Mapping[str, str] | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[Job]:
        """One page of jobs, newest first."""
        filters = job_filters(kind, status, labels) | {"limit": limit}
        if cursor is not None:
            filters["cursor"] = cursor
        return self._ask(Page[Job], "GET", "/jobs", params=filters)

    def jobs(
        self, *, kind: str | None = None, status: str | None = None, labels: Mapping[str, str] | None = None
    ) -> Iterator[Job]:
        """Every job, newest first, page by page."""
        return self._items(Page[Job], "/jobs", **job_filters(kind, status, labels))

    def models(self) -> list[Model]:
        """The models that jobs may name."""
        return [Model.model_validate(item) for item in self.transport.json("GET", "/models")["items"]]

    def delete(self, item: Job | Artifact | str) -> None:
        """Delete an ended job (or its id) with its events and files, or an Artifact's bytes, for good.

        The audit log keeps its entries.
        """
        kind = "artifacts" if isinstance(item, Artifact) else "jobs"
        self.transport.request("DELETE", f"/{kind}/{path_id(item)}")

    def queue(self) -> Queue:
        """The tenant's queue: whether it is paused, jobs by status, and quotas."""
        return self._ask(Queue, "GET", "/queue")

    def pause_queue(self, *, hand_over: bool = False, reason: str = "") -> Queue:
        """Start none of the tenant's jobs until `resume_queue`; needs the scope admin.

        `hand_over` stops running jobs at their next checkpoint, to be resumed later.
        """
        body = {"hand_over": hand_over, "reason": reason}
        return self._ask(Queue, "POST", "/queue/pause", json=body)

    def resume_queue(self) -> Queue:
        """End the tenant's pause; needs the scope admin."""
        return self._ask(Queue, "POST", "/queue/resume")

    # Following jobs

    def events(self, job: Job | str, *, after: int = 0) -> Iterator[Event]:
        """Every event after the event `after`, live, until the job has ended.

        A lost connection is resumed without gap or repeat. Raises: ConnectionFailed, ApiError after all
        retries.
        """
        return follow_events(self.transport, path_id(job), after)

    def wait(
        self,
        job: Job | str,
        on_progress: Callable[[Event], None] | None = None,
        *,
        timeout: float | None = None,
    ) -> Job:
        """The job once it has ended, whatever its status.

        `timeout` in seconds. Raises: WaitTimeout when it is over; the job goes on.
        """
        if timeout is None:
            events = self.events(job)
        else:
            events = poll_events(self.transport, path_id(job), timeout)
        for event in events:
            if on_progress:
                on_progress(event)
        return self.job(job)

    # Artifacts

    def artifacts(self, job: Job | str) -> list[Artifact]:
        """A job's artifacts, its recovery key among them."""
        items = self.transport.json("GET", f"/jobs/{path_id(job)}/artifacts")["items"]
        return [Artifact.model_validate(item) for item in items]

    def artifact(self, artifact_id: str) -> Artifact:
        """The facts of a job's artifact or of an upload."""
        return self._ask(Artifact, "GET", f"/artifacts/{path_id(artifact_id)}")

    def uploads(self) -> Iterator[Artifact]:
        """Every uploaded image, delta and prompt set, newest first."""
        return self._items(Page[Artifact], "/artifacts")

    def download(self, job: Job | Artifact | str, folder: str | Path) -> list[Path]:
        """Download a job's artifacts, or one Artifact, into a folder; every sha256 is verified.

        An earlier download is resumed. A job's recovery key is left out: pass it as an Artifact; and what is
        withheld (`Artifact.withheld`), as nobody may have it. Raises: IntegrityError where the bytes are
        wrong.
        """
        if isinstance(job, Artifact):
            wanted = [job]
        else:
            found = self.artifacts(job)
            wanted = [each for each in found if each.kind != "recovery_key" and not each.withheld]
        return [download_artifact(self.transport, artifact, Path(folder)) for artifact in wanted]

    def link(self, artifact: Artifact | str, *, lifetime_s: int = 900) -> ArtifactLink:
        """An address that gives the bytes without an API key, for at most 900 seconds.

        A recovery key has no such address.
        """
        path, body = f"/artifacts/{path_id(artifact)}/link", {"lifetime_s": lifetime_s}
        return self._ask(ArtifactLink, "POST", path, json=body)

    def report(self, job: Job | str) -> dict[str, Any]:
        """A finished job's report.json. Raises FileNotFoundError where the job has none."""
        for artifact in self.artifacts(job):
            if artifact.name == "report.json":
                return cast(dict[str, Any], self.transport.json("GET", f"/artifacts/{artifact.id}/content"))
        raise FileNotFoundError(f"job {id_of(job)} has no report.json")

    def compare(self, jobs: Sequence[Job | str]) -> Comparison:
        """The reports of 2 to 16 finished jobs that erase a concept in common, side by side."""
        return self._ask(Comparison, "GET", "/compare", params=compared_jobs(jobs))

    def compare_as(self, jobs: Sequence[Job | str], media_type: str) -> str:
        """The same as text/csv, a row for each figure; or as text/html, a page."""
        params, headers = compared_jobs(jobs), {"Accept": media_type}
        return self.transport.request("GET", "/compare", params=params, headers=headers).text

    def upload_image(
        self, path: str | Path, *, name: str | None = None, idempotency_key: str | None = None
    ) -> Artifact:
        """Upload an image (PNG, JPEG or WebP) to learn a concept from, or a mask.

        Its id goes into a concept's `images` or `masks`. Raises: BadFile where it is not such an image.
        """
        file = Path(path)
        facts = {"name": name or file.name}
        return upload_file(self.transport, file, image_type(file), facts, idempotency_key)

    def upload_prompts(
        self, path: str | Path, *, name: str | None = None, idempotency_key: str | None = None
    ) -> Artifact:
        """Upload a prompt set (CSV or JSON lines, in I2P's format) to judge on.

        Its id goes into `evaluation.prompts`. Raises: ApiError, with the line of each bad row.
        """
        file = Path(path)
        facts = {"name": name or file.name}
        return upload_file(self.transport, file, prompt_set_type(file), facts, idempotency_key)

    def upload(
        self,
        path: str | Path,
        *,
        model: str = "emoji",
        name: str | None = None,
        idempotency_key: str | None = None,
    ) -> Artifact:
        """Upload a LoRA delta (safetensors), to evaluate or inspect it."""
        file = Path(path)
        facts = {"name": name or file.name, "model": model}
        return upload_file(self.transport, file, "application/octet-stream", facts, idempotency_key)

    # Recovery keys

    def recovery_key(self, job: Job | str) -> Artifact:
        """The facts of the recovery key that a hide job made; to `download` it needs the scope keys:read.

        Raises: NoRecoveryKey.
        """
        for artifact in self.artifacts(job):
            if artifact.kind == "recovery_key":
                return artifact
        raise NoRecoveryKey(
            f"job {id_of(job)} has no recovery key: only a hide job that has succeeded makes one"
        )

    def reads(self, artifact: Artifact | str) -> Iterator[KeyRead]:
        """Who read a recovery key, newest first; needs the scope admin."""
        return self._items(Page[KeyRead], f"/artifacts/{path_id(artifact)}/reads")

    def revoke(self, artifact: Artifact | str) -> Artifact:
        """Delete a recovery key for good; needs the scope admin."""
        return self._ask(Artifact, "DELETE", f"/artifacts/{path_id(artifact)}")
