"""What the service is sent: ids, and the specs of jobs."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from expunge.client.errors import BadId
from expunge.client.types import Artifact, Job

ConceptLike = str | Mapping[str, Any]
MethodLike = str | Mapping[str, Any]
ID = re.compile(r"[A-Za-z0-9_-]+")


def id_of(found: Job | Artifact | str) -> str:
    return found if isinstance(found, str) else found.id


def in_path(found: Job | Artifact | str) -> str:
    """An id as a step of an address. BadId where it is none: it would lead elsewhere."""
    text = id_of(found)
    if not ID.fullmatch(text):
        raise BadId(f"'{text[:60]}' is not an id: give a UUID, such as 0b0d6f2e-6a43-4f0c-9d6b-2f6f5f6d9b11")
    return text


def listed(concepts: ConceptLike | Sequence[ConceptLike]) -> list[Any]:
    return [concepts] if isinstance(concepts, (str, Mapping)) else list(concepts)


def erase_spec(
    concepts: ConceptLike | Sequence[ConceptLike],
    *,
    model: str,
    method: MethodLike,
    preserve: Sequence[str] = (),
    **more: Any,
) -> dict[str, Any]:
    spec: dict[str, Any] = {"model": model, "concepts": listed(concepts), "method": method, **more}
    if preserve:
        spec["preserve"] = list(preserve)
    return spec


def of_delta(job: Job | str | None, artifact: Artifact | str | None) -> dict[str, Any]:
    """Which delta is meant: a finished job's, or an uploaded one."""
    found = {"job_id": job, "artifact_id": artifact}
    return {name: id_of(of) for name, of in found.items() if of is not None}


def inspect_spec(
    *,
    job: Job | str | None,
    artifact: Artifact | str | None,
    against: Job | Artifact | str | None,
    concept: ConceptLike | None,
    concept_space: str | Sequence[str],
    **more: Any,
) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "concept_space": concept_space if isinstance(concept_space, str) else list(concept_space),
        **of_delta(job, artifact),
        **more,
    }
    if against is not None:
        spec["against_artifact_id" if isinstance(against, Artifact) else "against_job_id"] = id_of(against)
    if concept is not None:
        spec["concept"] = concept
    return spec
