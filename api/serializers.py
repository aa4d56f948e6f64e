"""Rows as clients see them, and specs as they are stored."""

import asyncio
import time
import uuid
from collections.abc import Sequence
from functools import partial
from typing import Any

from pydantic import ValidationError
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from expunge.api import job_limits, vocabularies
from expunge.api.auth import UNKNOWN, Caller, denied, still
from expunge.api.problems import Problem, invalid
from expunge.api.schemas import DryRun, Job, JobArtifact, JobKind
from expunge.api.services import Services
from expunge.core.specs import (
    MIN_IMAGES,
    SPECS,
    UNSTACKABLE,
    CombineSpec,
    Concept,
    EraseSpec,
    EvaluateSpec,
    InspectSpec,
    Names,
)
from expunge.store import artifacts, jobs
from expunge.store.errors import NotFound
from expunge.store.models import Artifact as ArtifactRow, Job as JobRow
from expunge.store.settings import Settings
from expunge.store.statuses import JobStatus

STACKABLE = ("erase", "combine")
JUDGED = (*STACKABLE, "hide")


def view(row: JobRow, files: Sequence[ArtifactRow]) -> Job:
    found = Job.model_validate({name: getattr(row, name) for name in Job.model_fields if name != "artifacts"})
    return found.model_copy(update={"artifacts": [JobArtifact.model_validate(file) for file in files]})


def job(session: Session, tenant_id: uuid.UUID, row: JobRow) -> Job:
    return view(row, artifacts.list_of_job(session, tenant_id, row.id))


def look(services: Services, caller: Caller, job_id: uuid.UUID, *, again: bool = False) -> Job:
    """`again`: look at the key first, which may have ended while the answer was held back."""
    with services.reading() as session:
        if again and not still(session, caller, "jobs:write"):
            raise denied(UNKNOWN, ', error="invalid_token"')
        return Job.model_validate(jobs.get_with_artifacts(session, caller.tenant_id, job_id))


async def ended(services: Services, caller: Caller, job_id: uuid.UUID, deadline: float) -> Job:
    """The job once it has ended, or as it is at the deadline, at most MAX_WAIT away; holds no connection
    while it waits.
    """
    again = False
    with services.hub.subscribe(str(job_id)) as bell:
        while True:
            bell.clear()
            found = await run_in_threadpool(partial(look, again=again), services, caller, job_id)
            again = True
            left = deadline - time.monotonic()
            if found.status in JobStatus.terminal() or left <= 0:
                return found
            try:
                await asyncio.wait_for(bell.wait(), min(left, services.hub.patience))
            except TimeoutError:
                continue


TO_COME = "00000000-0000-0000-0000-"
AnySpec = InspectSpec | EraseSpec | EvaluateSpec | CombineSpec


def resolve(
    settings: Settings, session: Session, tenant_id: uuid.UUID, spec: AnySpec, *, dry: bool = False
) -> dict[str, Any]:
    """The spec with every default; whatever it builds on or judges must be there, be the tenant's, and be of
    the model, within the operator's bounds.

    `dry`: images and deltas may be named that are still to be uploaded, as TO_COME has it.
    """
    job_limits.check(settings, spec)
    judged: list[Concept] = []
    if isinstance(spec, EraseSpec):
        check_images(
            session, tenant_id, {i: c for i, c in enumerate(spec.concepts) if not (dry and to_come(c))}
        )
    match spec:
        case EraseSpec() if spec.base_job_id is not None:
            row = finished(session, tenant_id, spec.base_job_id, "base_job_id", STACKABLE)
            of_model(spec, row.spec["model"], "job")
            stackable(row, "base_job_id")
            on_top(spec, row)
            judged = [*erased_by(session, tenant_id, row), *spec.concepts]
        case CombineSpec():
            for i, job_id in enumerate(spec.jobs):
                row = finished(session, tenant_id, job_id, f"jobs[{i}]", ("erase",))
                stackable(row, f"jobs[{i}]")
                of_model(spec, row.spec["model"], "job")
                judged += [Concept.model_construct(**c) for c in row.spec["concepts"]]
        case EvaluateSpec() if spec.job_id is not None:
            row = finished(session, tenant_id, spec.job_id, "job_id", JUDGED)
            of_model(spec, row.spec["model"], "job")
            spec = spec.model_copy(update={"concepts": spec.concepts or erased_by(session, tenant_id, row)})
        case EvaluateSpec() if dry and str(spec.artifact_id).startswith(TO_COME):
            pass
        case EvaluateSpec():
            of_model(spec, uploaded(session, tenant_id, str(spec.artifact_id)).info["model"], "upload")
        case InspectSpec():
            for prefix, of_job, of_upload in (
                ("", spec.job_id, spec.artifact_id),
                ("against_", spec.against_job_id, spec.against_artifact_id),
            ):
                if of_job is not None:
                    row = finished(session, tenant_id, of_job, f"{prefix}job_id", JUDGED)
                    of_model(spec, row.spec["model"], "job")
                    if not prefix and spec.concept is None:
                        spec = spec.model_copy(update={"concept": changed_by(session, tenant_id, row)})
                if of_upload is not None and not (dry and of_upload.startswith(TO_COME)):
                    of_model(
                        spec,
                        uploaded(session, tenant_id, of_upload, f"{prefix}artifact_id").info["model"],
                        "upload",
                    )
        case _:
            pass
    # Once more, with the concepts of the jobs that it builds on or judges
    job_limits.check(settings, spec, len({c.name.casefold() for c in judged}) or None)
    return spec.model_copy(
        update={"run_timeout_s": spec.run_timeout_s or settings.max_run_seconds}
    ).model_dump(mode="json")


def resolve_again(settings: Settings, session: Session, row: JobRow) -> None:
    """Whether a job's spec would be accepted today.

    Problem: wrong_state, where what it needs is gone, or it is beyond the operator's bounds of now.
    """
    try:
        spec: Any = SPECS[row.kind].model_validate({**row.spec, "run_timeout_s": None})
        resolve(settings, session, row.tenant_id, spec)
    except Problem as found:
        raise Problem("wrong_state", f"The job can no longer be run as it was: {found.detail}") from found
    except ValidationError as error:
        raise Problem(
            "wrong_state", "This release no longer takes the job's request: POST it anew."
        ) from error


def finished(session: Session, tenant_id: uuid.UUID, job_id: str, field: str, kinds: Sequence[str]) -> JobRow:
    """A job that has a delta, or a problem that names the field."""
    try:
        row = jobs.get(session, tenant_id, uuid.UUID(job_id), keep=True)
    except NotFound as error:
        raise invalid(field, f"there is no job {job_id}", "GET /jobs lists yours") from error
    if row.kind not in kinds or row.status != JobStatus.SUCCEEDED:
        raise invalid(
            field,
            f"names a job of kind {row.kind} that is {row.status}",
            f"name one of kind {' or '.join(kinds)} that has succeeded",
        )
    if any(file.expired_at for file in artifacts.list_of_job(session, tenant_id, row.id)):
        raise invalid(
            field,
            "names a job whose artifacts were deleted",
            f"make them again: POST the spec of GET /jobs/{row.id} to /jobs/{row.kind}",
        )
    return row


def stackable(row: JobRow, field: str) -> None:
    method = row.spec.get("method", {}).get("name")
    if method in UNSTACKABLE:
        raise invalid(
            field,
            f"names a job of method '{method}', whose delta is not a LoRA on the denoising network",
            "name one of another method",
        )


def on_top(spec: EraseSpec, row: JobRow) -> None:
    """What the base job erased can neither be kept nor be a target."""
    gone = Names(word for c in row.spec.get("concepts", []) for word in (c["name"], *c.get("synonyms", ())))
    wanted = [("preserve", name) for name in spec.preserve]
    wanted += [(f"concepts[{i}].target", c.target) for i, c in enumerate(spec.concepts) if c.target]
    wanted += [(f"concepts[{i}].attributes", a) for i, c in enumerate(spec.concepts) for a in c.attributes]
    for field, name in wanted:
        if gone.find(name) is not None:
            raise invalid(
                field,
                f"'{name}' was erased by base_job_id",
                "name another, or take that job back out with POST /jobs/combine",
            )


def erased_by(session: Session, tenant_id: uuid.UUID, row: JobRow) -> list[Concept]:
    """All that a job's delta has erased: its own concepts, and those of the jobs it stands on or was combined
    from.
    """
    found: dict[str, Concept] = {}
    for member in jobs.list_stack(session, tenant_id, row):
        found |= {
            c.name.casefold(): c
            for c in (Concept.model_construct(**c) for c in member.spec.get("concepts", []))
        }
    return list(found.values())


def changed_by(session: Session, tenant_id: uuid.UUID, row: JobRow) -> Concept | None:
    """The one concept that a job's delta has erased; None for several, and for a learned word, which is no
    word of the model.
    """
    erased = erased_by(session, tenant_id, row)
    return (
        Concept(name=erased[0].name, synonyms=erased[0].synonyms)
        if len(erased) == 1 and not erased[0].images
        else None
    )


def uploaded(
    session: Session, tenant_id: uuid.UUID, artifact_id: str, field: str = "artifact_id"
) -> ArtifactRow:
    try:
        row = artifacts.get(session, tenant_id, uuid.UUID(artifact_id), keep=True)
    except NotFound as error:
        raise invalid(
            field, f"there is no artifact {artifact_id}", "upload a delta with POST /artifacts"
        ) from error
    if row.job_id is not None:
        raise invalid(
            field,
            "names a job's artifact, not an upload",
            f"give {field.replace('artifact', 'job')} '{row.job_id}' instead",
        )
    if row.expired_at is not None:
        raise invalid(field, "names an upload that was deleted", "upload a delta with POST /artifacts")
    if "model" not in row.info:
        raise invalid(field, "names an image, not a delta", "upload a LoRA delta with POST /artifacts")
    return row


def to_come(concept: Concept) -> bool:
    """Whether some of a concept's images are still to be uploaded: a dry run takes
    00000000-0000-0000-0000-000000000001 and so on in their place.
    """
    return any(id_.startswith(TO_COME) for id_ in (*concept.images, *concept.masks))


def check_images(session: Session, tenant_id: uuid.UUID, concepts: dict[int, Concept]) -> None:
    """Images and masks must be uploads of the tenant's, the images of a concept enough different ones; a mask
    must have its image's size, and keep some but not all of it."""
    ids = {uuid.UUID(id_) for concept in concepts.values() for id_ in (*concept.images, *concept.masks)}
    rows = artifacts.get_many(session, tenant_id, ids) if ids else {}

    def row_of(artifact_id: str, field: str) -> ArtifactRow:
        row = rows.get(uuid.UUID(artifact_id))
        if row is None:
            raise invalid(field, f"there is no image {artifact_id}", "upload one with POST /artifacts")
        if row.expired_at is not None:
            raise invalid(
                field, f"names the image {artifact_id}, which was deleted", "upload one with POST /artifacts"
            )
        if row.job_id is not None or "width" not in row.info:
            raise invalid(
                field,
                f"names '{row.name}', which is not an uploaded image",
                "upload one with POST /artifacts",
            )
        return row

    for i, concept in concepts.items():
        at = f"concepts[{i}]"
        images = [row_of(id_, f"{at}.images[{k}]") for k, id_ in enumerate(concept.images)]
        different = len({row.sha256 for row in images})
        if images and different < MIN_IMAGES:
            message = (
                f"{len(images)} uploads hold {different} different image{'s' * (different > 1)}, too few to"
                " learn from"
            )
            raise invalid(f"{at}.images", message, f"upload {MIN_IMAGES} to 10 different ones")
        for k, id_ in enumerate(concept.masks):
            field, mask, image = f"{at}.masks[{k}]", row_of(id_, f"{at}.masks[{k}]").info, images[k].info
            width, height = image["width"], image["height"]
            if (mask["width"], mask["height"]) != (width, height):
                raise invalid(
                    field,
                    f"has {mask['width']} x {mask['height']} px, its image {width} x {height}",
                    "give a mask of the image's size",
                )
            if mask["light"] in (0.0, 1.0):
                what = "keeps nothing: it is black" if mask["light"] == 0 else "keeps everything: it is white"
                raise invalid(
                    field, f"{what} all over", "make white what is to be kept and black what is not"
                )


def cut(session: Session, tenant_id: uuid.UUID, spec: AnySpec) -> list[str]:
    """A note for each concept some of whose images, uploaded by now, are not square."""
    notes = []
    for i, concept in enumerate(spec.concepts if isinstance(spec, EraseSpec) else ()):
        if concept.images and not to_come(concept):
            found = artifacts.get_many(session, tenant_id, {uuid.UUID(id_) for id_ in concept.images})
            odd = sum(
                found[uuid.UUID(id_)].info["width"] != found[uuid.UUID(id_)].info["height"]
                for id_ in concept.images
            )
            text = (
                f"concepts[{i}].images: {odd} of {len(concept.images)} are not square; only the middle square"
                " of each is learned from."
            )
            notes += [text] if odd else []
    return notes


def of_model(spec: AnySpec, model: str, what: str) -> None:
    if spec.model != model:
        raise invalid("model", f"is '{spec.model}', but the {what} is of '{model}'", f"give model '{model}'")


def dry_run(services: Services, caller: Caller, kind: JobKind, spec: AnySpec) -> dict[str, Any]:
    with services.transaction() as session:
        resolved, seen = (
            resolve(services.settings, session, caller.tenant_id, spec, dry=True),
            cut(session, caller.tenant_id, spec),
        )
    return DryRun(
        kind=kind, spec=resolved, notes=[*vocabularies.notes(services, spec.model, spec), *seen]
    ).model_dump(mode="json")
