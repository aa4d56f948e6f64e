"""The client: one method per thing the service does."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, cast

import httpx

from expunge.client import download as downloads, settings, sse
from expunge.client.errors import ApiError, BadFile, ConnectionFailed, NoRecoveryKey, WaitTimeout
from expunge.client.requests import (
    ConceptLike,
    MethodLike,
    erase_spec,
    id_of,
    in_path,
    inspect_spec,
    listed,
    of_delta,
)
from expunge.client.transport import RETRIED, Transport, pause
from expunge.client.types import (
    Artifact,
    ArtifactLink,
    Event,
    Impact,
    Job,
    KeyRead,
    Model,
    Page,
    Queue,
    Validated,
)

QUIET = (
    45.0  # seconds without even a heartbeat before a stream counts as lost; the service sends one every 15
)


def path_of(kind: str) -> str:
    """Where a job of this kind is asked for."""
    return "/inspect" if kind == "inspect" else f"/jobs/{kind}"


class Expunge:
    """Talks to one Expunge service; url and key come from EXPUNGE_URL and EXPUNGE_API_KEY unless given.

    BadSetting where they cannot be used.
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

    def _json(self, method: str, path: str, **request: Any) -> Any:
        answer = self.transport.request(method, path, **request)
        try:
            return answer.json()
        except ValueError as error:
            raise ConnectionFailed(
                f"{self.transport.url} answered with no JSON: set EXPUNGE_URL to an Expunge service"
            ) from error

    # Asking for work

    def submit(
        self,
        kind: str,
        spec: Mapping[str, Any],
        *,
        idempotency_key: str | None = None,
        prefer_wait: int | None = None,
    ) -> Job:
        """POST a whole spec, as the OpenAPI document describes it."""
        headers = {"Prefer": f"wait={prefer_wait}"} if prefer_wait else None
        return Job.model_validate(
            self._json(
                "POST", path_of(kind), json=dict(spec), headers=headers, idempotency_key=idempotency_key
            )
        )

    def validate(self, kind: str, spec: Mapping[str, Any]) -> Validated:
        """The spec with every default filled in, and what was noticed about it; nothing is stored."""
        return Validated.model_validate(
            self._json("POST", path_of(kind), json=dict(spec), params={"dry_run": "true"})
        )

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
        """Sum finished erase jobs' own deltas into one; leave one of a stack out to take it back out.

        `more`: fused, evaluation, labels, …
        """
        return self.submit(
            "combine",
            {"model": model, "jobs": [id_of(job) for job in jobs], **more},
            idempotency_key=idempotency_key,
        )

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

        `seal_to`: an X25519 public key, base64. `more`: recovery, seed, fused, evaluation, labels, …
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
        """Judge a finished job's delta, or an uploaded one (then name the concepts)."""
        spec = {"model": model, "concepts": listed(concepts), **of_delta(job, artifact), **more}
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
        """Rank what moved most from the base model (or `against`: a job or its id, or an uploaded Artifact)
        to a job's or an uploaded delta.

        `concept`: what was changed; omitted, it is found. `more`: locality, trajectories, timesteps, top,
        pictures, seed, labels, …
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
        """What erasing the concepts would hurt, the best targets and the cost, predicted from the model's
        concept graph; nothing is run.
        """
        body = {
            "model": model,
            "concepts": listed(concepts),
            "method": method,
            "top": top,
            "targets": targets,
        }
        return Impact.model_validate(self._json("POST", "/concepts/impact", json=body))

    def cancel(self, job: Job | str) -> Job:
        return Job.model_validate(self._json("POST", f"/jobs/{in_path(job)}/cancel"))

    def retry(self, job: Job | str, *, idempotency_key: str | None = None) -> Job:
        """A new job with the same spec."""
        return Job.model_validate(
            self._json("POST", f"/jobs/{in_path(job)}/retry", idempotency_key=idempotency_key)
        )

    # Looking

    def job(self, job: Job | str) -> Job:
        return Job.model_validate(self._json("GET", f"/jobs/{in_path(job)}"))

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
        wanted = {
            "kind": kind,
            "status": status,
            "limit": limit,
            "cursor": cursor,
            "label": [f"{k}:{v}" for k, v in (labels or {}).items()],
        }
        params = {name: value for name, value in wanted.items() if value not in (None, [])}
        return Page[Job].model_validate(self._json("GET", "/jobs", params=params))

    def jobs(
        self, *, kind: str | None = None, status: str | None = None, labels: Mapping[str, str] | None = None
    ) -> Iterator[Job]:
        """Every job, newest first, page by page."""
        cursor = None
        while True:
            page = self.jobs_page(kind=kind, status=status, labels=labels, limit=100, cursor=cursor)
            yield from page.items
            if (cursor := page.next_cursor) is None:
                return

    def models(self) -> list[Model]:
        return [Model.model_validate(item) for item in self._json("GET", "/models")["items"]]

    def artifacts(self, job: Job | str) -> list[Artifact]:
        return [
            Artifact.model_validate(item)
            for item in self._json("GET", f"/jobs/{in_path(job)}/artifacts")["items"]
        ]

    def artifact(self, artifact_id: str) -> Artifact:
        return Artifact.model_validate(self._json("GET", f"/artifacts/{in_path(artifact_id)}"))

    def uploads(self) -> Iterator[Artifact]:
        """Uploaded images and deltas, newest first, page by page."""
        cursor = None
        while True:
            page = Page[Artifact].model_validate(
                self._json(
                    "GET", "/artifacts", params={"limit": 100} | ({"cursor": cursor} if cursor else {})
                )
            )
            yield from page.items
            if (cursor := page.next_cursor) is None:
                return

    def delete(self, found: Job | Artifact | str) -> None:
        """Delete an ended job (or its id) with all that is its own, or an Artifact's bytes, for good; the
        audit stays.
        """
        self.transport.request(
            "DELETE", f"/{'artifacts' if isinstance(found, Artifact) else 'jobs'}/{in_path(found)}"
        )

    def queue(self) -> Queue:
        """Whether the tenant's queue is paused, what waits and runs, and the quotas."""
        return Queue.model_validate(self._json("GET", "/queue"))

    def pause_queue(self, *, hand_over: bool = False, reason: str = "") -> Queue:
        """Let nothing of the tenant's start until `resume_queue`; `hand_over` stops running jobs at their
        next checkpoint. Takes the scope admin.
        """
        return Queue.model_validate(
            self._json("POST", "/queue/pause", json={"hand_over": hand_over, "reason": reason})
        )

    def resume_queue(self) -> Queue:
        """End the tenant's pause; takes the scope admin."""
        return Queue.model_validate(self._json("POST", "/queue/resume"))

    # Following

    def events(self, job: Job | str, *, after: int = 0) -> Iterator[Event]:
        """Every event after `after`, live, until the job has ended; a lost connection resumes without gap or
        repeat.
        """
        path, failures = f"/jobs/{in_path(job)}/events", 0
        limits = httpx.Timeout(self.transport.http.timeout.connect, read=QUIET)
        while True:
            before = after
            try:
                with self.transport.stream(
                    path, {"Accept": "text/event-stream", "Last-Event-ID": str(after)}, timeout=limits
                ) as response:
                    for message in sse.messages(response.iter_lines()):
                        event = Event.model_validate_json(message.data)
                        if event.seq > after:
                            after = event.seq
                            yield event
                page = self._json("GET", path, params={"after": after})
                for item in page["items"]:
                    event = Event.model_validate(item)
                    after = event.seq
                    yield event
                if page["finished"]:
                    return
                continue
            except httpx.TransportError as error:
                lost: Exception = ConnectionFailed(
                    f"the event stream broke off: {error or type(error).__name__}"
                )
            except ApiError as error:
                if error.status not in RETRIED:
                    raise
                lost = error
            failures = 1 if after > before else failures + 1
            if failures > self.transport.retries:
                raise lost
            self.transport.sleep(pause(failures - 1, None))

    def wait(
        self,
        job: Job | str,
        on_progress: Callable[[Event], None] | None = None,
        *,
        timeout: float | None = None,
    ) -> Job:
        """The job once it has ended, however it ended; `timeout` in seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        after = 0
        if deadline is None:
            for event in self.events(job):
                if on_progress:
                    on_progress(event)
            return self.job(job)
        while True:
            page = self._json("GET", f"/jobs/{in_path(job)}/events", params={"after": after})
            for item in page["items"]:
                if on_progress:
                    on_progress(Event.model_validate(item))
            after = page["next_after"]
            if page["finished"]:
                return self.job(job)
            if time.monotonic() >= deadline:
                raise WaitTimeout(f"job {id_of(job)} has not finished within {timeout} s; it goes on")
            self.transport.sleep(min(0.5, max(0.0, deadline - time.monotonic())))

    # Bytes

    def download(self, job: Job | Artifact | str, folder: str | Path) -> list[Path]:
        """Fetch a job's artifacts (or one Artifact) into a folder, resuming and verifying every sha256;
        recovery keys only when asked for one by one.
        """
        found = (
            [job]
            if isinstance(job, Artifact)
            else [a for a in self.artifacts(job) if a.kind != "recovery_key"]
        )
        return [downloads.download(self.transport, artifact, Path(folder)) for artifact in found]

    def link(self, artifact: Artifact | str, *, lifetime_s: int = 900) -> ArtifactLink:
        """An address for others, good for GET without an API key, for at most 900 seconds; none for recovery
        keys.
        """
        return ArtifactLink.model_validate(
            self._json("POST", f"/artifacts/{in_path(artifact)}/link", json={"lifetime_s": lifetime_s})
        )

    def report(self, job: Job | str) -> dict[str, Any]:
        """A finished job's report.json. Raises FileNotFoundError where the job has none."""
        for artifact in self.artifacts(job):
            if artifact.name == "report.json":
                return cast(dict[str, Any], self._json("GET", f"/artifacts/{artifact.id}/content"))
        raise FileNotFoundError(f"job {job if isinstance(job, str) else job.id} has no report.json")

    def upload_image(
        self, path: str | Path, *, name: str | None = None, idempotency_key: str | None = None
    ) -> Artifact:
        """Send an image (PNG, JPEG or WebP) to learn a concept from, or a mask; its id goes into a concept's
        `images` or `masks`.
        """
        file = Path(path)
        media_type = image_type(file)
        answer = self.transport.request(
            "POST",
            "/artifacts",
            content=file.read_bytes,
            params={"name": name or file.name},
            headers={"Content-Type": media_type},
            idempotency_key=idempotency_key,
        )
        return Artifact.model_validate(answer.json())

    # Recovery keys

    def recovery_key(self, job: Job | str) -> Artifact:
        """The recovery key that a hide job made: its facts; `download` it with a key that has the scope
        keys:read. NoRecoveryKey.
        """
        found = next((a for a in self.artifacts(job) if a.kind == "recovery_key"), None)
        if found is None:
            raise NoRecoveryKey(
                f"job {id_of(job)} has no recovery key: only a hide job that has succeeded makes one"
            )
        return found

    def reads(self, artifact: Artifact | str) -> Iterator[KeyRead]:
        """Who read a recovery key, newest first; takes the scope admin."""
        path, cursor = f"/artifacts/{in_path(artifact)}/reads", None
        while True:
            page = Page[KeyRead].model_validate(
                self._json("GET", path, params={"limit": 100} | ({"cursor": cursor} if cursor else {}))
            )
            yield from page.items
            if (cursor := page.next_cursor) is None:
                return

    def revoke(self, artifact: Artifact | str) -> Artifact:
        """Delete a recovery key for good; takes the scope admin."""
        return Artifact.model_validate(self._json("DELETE", f"/artifacts/{in_path(artifact)}"))

    def upload(
        self,
        path: str | Path,
        *,
        model: str = "emoji",
        name: str | None = None,
        idempotency_key: str | None = None,
    ) -> Artifact:
        """Send a LoRA delta (safetensors) for evaluation."""
        file = Path(path)
        answer = self.transport.request(
            "POST",
            "/artifacts",
            content=file.read_bytes,
            params={"model": model, "name": name or file.name},
            headers={"Content-Type": "application/octet-stream"},
            idempotency_key=idempotency_key,
        )
        return Artifact.model_validate(answer.json())


IMAGE_TYPES = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg", b"RIFF": "image/webp"}
"""How a file of the type begins, whatever it is called."""


def image_type(file: Path) -> str:
    """The media type of an image, by its first bytes.

    BadFile where it is none that the service takes; OSError.
    """
    with file.open("rb") as opened:
        head = opened.read(12)
    if not head:
        raise BadFile(f"{file} is empty")
    for begin, media_type in IMAGE_TYPES.items():
        if head.startswith(begin) and (begin != b"RIFF" or head[8:] == b"WEBP"):
            return media_type
    raise BadFile(f"{file} is no PNG, JPEG or WebP image: save it as one of them")
