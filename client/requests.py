"""What the client sends: ids in paths, and the specs of jobs."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from expunge.client.errors import BadId
from expunge.client.types import Artifact, Job

ConceptLike = str | Mapping[str, Any]
MethodLike = str | Mapping[str, Any]
ID = re.compile(r"[A-Za-z0-9_-]+")


def id_of(item: Job | Artifact | str) -> str:
    return item if isinstance(item, str) else item.id


def path_id(item: Job | Artifact | str) -> str:
    """The id, checked to be one segment of a path: '../x' would lead to another address.

    Raises: BadId.
    """
    text = id_of(item)
    if not ID.fullmatch(text):
        raise BadId(f"'{text[:60]}' is not an id: give a UUID, such as 0b0d6f2e-6a43-4f0c-9d6b-2f6f5f6d9b11")
    return text


def submit_path(kind: str) -> str:
    """Where a job of this kind is posted."""
    return "/inspect" if kind == "inspect" else f"/jobs/{kind}"


def concept_list(concepts: ConceptLike | Sequence[ConceptLike]) -> list[Any]:
    """One concept or several, as the list that a request has."""
    return [concepts] if isinstance(concepts, (str, Mapping)) else list(concepts)


def erase_spec(
    concepts: ConceptLike | Sequence[ConceptLike],
    *,
    model: str,
    method: MethodLike,
    preserve: Sequence[str] = (),
    **more: Any,
) -> dict[str, Any]:
    """The spec of an erase or a hide job; `more` are further fields of it."""
    spec: dict[str, Any] = {"model": model, "concepts": concept_list(concepts), "method": method, **more}
    if preserve:
        spec["preserve"] = list(preserve)
    return spec


def delta_fields(job: Job | str | None, artifact: Artifact | str | None) -> dict[str, Any]:
    """The fields that name a delta: a finished job's, or an uploaded one."""
    fields = {"job_id": job, "artifact_id": artifact}
    return {name: id_of(item) for name, item in fields.items() if item is not None}


def inspect_spec(
    *,
    job: Job | str | None,
    artifact: Artifact | str | None,
    against: Job | Artifact | str | None,
    concept: ConceptLike | None,
    concept_space: str | Sequence[str],
    **more: Any,
) -> dict[str, Any]:
    """The spec of an inspect job; `more` are further fields of it."""
    spec: dict[str, Any] = {
        "concept_space": concept_space if isinstance(concept_space, str) else list(concept_space),
        **delta_fields(job, artifact),
        **more,
    }
    if against is not None:
        spec["against_artifact_id" if isinstance(against, Artifact) else "against_job_id"] = id_of(against)
    if concept is not None:
        spec["concept"] = concept
    return spec


def job_filters(kind: str | None, status: str | None, labels: Mapping[str, str] | None) -> dict[str, Any]:
    """The query that narrows a list of jobs."""
    filters: dict[str, Any] = {"kind": kind, "status": status}
    if labels:
        filters["label"] = [f"{name}:{value}" for name, value in labels.items()]
    return {name: value for name, value in filters.items() if value is not None}


def compared_jobs(jobs: Sequence[Job | str]) -> dict[str, str]:
    """The query that names the jobs to compare."""
    return {"jobs": ",".join(path_id(job) for job in jobs)}
