"""Resolve a spec: check what it refers to (jobs, uploads, images), and fill in its defaults.

A reference must exist, belong to the tenant, be of the spec's model, and still have its bytes.
"""

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from sqlalchemy.orm import Session

from expunge.api.job_limits import check_limits
from expunge.api.problems import Problem, invalid
from expunge.api.prompt_sets import count_prompts
from expunge.core.specs import (
    MIN_IMAGES,
    SPECS,
    UNSTACKABLE,
    CombineSpec,
    Concept,
    EraseSpec,
    EvaluateSpec,
    InspectSpec,
    JudgeSpec,
    Names,
)
from expunge.store import artifacts, jobs
from expunge.store.errors import NotFound
from expunge.store.models import Artifact as ArtifactRow, Job as JobRow
from expunge.store.settings import Settings
from expunge.store.statuses import JobStatus

AnySpec = InspectSpec | EraseSpec | EvaluateSpec | CombineSpec
STACKABLE = ("erase", "combine")
WITH_DELTA = (*STACKABLE, "hide")
PLACEHOLDER = "00000000-0000-0000-0000-"
"""How the id of an upload begins that a dry run names before it is uploaded."""


def resolve(
    settings: Settings, session: Session, tenant_id: uuid.UUID, spec: AnySpec, *, dry_run: bool = False
) -> dict[str, Any]:
    """The spec as JSON with every default filled in, its references and limits checked.

    Raises: Problem `invalid_request`, naming the field.
    """
    prompts = 0
    if not isinstance(spec, InspectSpec):
        to_come = dry_run and (spec.evaluation.prompts or "").startswith(PLACEHOLDER)
        prompts = count_prompts(settings, session, tenant_id, spec.evaluation, to_come=to_come)
    check_limits(settings, spec, prompts=prompts)
    judged: list[Concept] = []
    match spec:
        case EraseSpec():
            spec = append(session, tenant_id, spec)
            concepts = enumerate(spec.concepts)
            check_images(
                session, tenant_id, {i: c for i, c in concepts if not (dry_run and has_placeholder(c))}
            )
            judged = check_base_job(session, tenant_id, spec)
        case CombineSpec():
            judged = check_combined_jobs(session, tenant_id, spec)
        case EvaluateSpec():
            spec = resolve_evaluated(session, tenant_id, spec, dry_run)
        case InspectSpec():
            spec = resolve_inspected(session, tenant_id, spec, dry_run)
    if not isinstance(spec, InspectSpec):
        check_judge(session, tenant_id, spec.evaluation.judge, dry_run)
    # The limits once more, with the concepts of the jobs that it builds on or combines
    check_limits(settings, spec, len({c.name.casefold() for c in judged}) or None, prompts)
    run_timeout_s = spec.run_timeout_s or settings.max_run_seconds
    return spec.model_copy(update={"run_timeout_s": run_timeout_s}).model_dump(mode="json")


def resolve_again(settings: Settings, session: Session, row: JobRow) -> None:
    """Check that a job's stored spec would still be accepted.

    Raises: Problem `wrong_state` where a reference is gone, or a limit of now is exceeded.
    """
    try:
        spec: Any = SPECS[row.kind].model_validate({**row.spec, "run_timeout_s": None})
        resolve(settings, session, row.tenant_id, spec)
    except Problem as found:
        raise Problem("wrong_state", f"The job can no longer be run as it was: {found.detail}") from found
    except ValidationError as error:
        raise Problem(
            "wrong_state", "This release no longer accepts the job's request: POST a new one."
        ) from error


def check_base_job(session: Session, tenant_id: uuid.UUID, spec: EraseSpec) -> list[Concept]:
    """Check `base_job_id`; returns all concepts that are judged: those of the base job and of the spec."""
    if spec.base_job_id is None:
        return []
    row = finished_job(session, tenant_id, spec.base_job_id, "base_job_id", STACKABLE)
    check_not_withheld(session, row, "base_job_id")
    check_same_model(spec, row.spec["model"], "job")
    check_stackable(row, "base_job_id")
    check_not_erased(spec, row)
    return [*concepts_of_stack(session, tenant_id, row), *spec.concepts]


def append(session: Session, tenant_id: uuid.UUID, spec: EraseSpec) -> EraseSpec:
    """The spec with the concepts of `append_job_id` before its own, and what that job was to preserve."""
    if spec.append_job_id is None:
        return spec
    field = "append_job_id"
    row = finished_job(session, tenant_id, spec.append_job_id, field, STACKABLE, with_files=False)
    check_same_model(spec, row.spec["model"], "job")
    whole, stack = spec.model_dump(mode="json"), jobs.concepts_of_stack(session, tenant_id, row)
    own = Names(words_of(whole["concepts"]))
    whole["concepts"] = [c for c in stack if own.find(c["name"]) is None] + whole["concepts"]
    gone = Names([*words_of(whole["concepts"]), *spec.preserve])
    kept = [name for name in row.spec.get("preserve", []) if gone.find(name) is None]
    whole["preserve"] = [*kept, *spec.preserve]
    try:
        return EraseSpec.model_validate(whole)
    except ValidationError as error:
        why = str(error.errors()[0]["msg"]).removeprefix("Value error, ")
        raise invalid(
            field, f"with what that job erased, {why}", "change the request, or erase its concepts anew"
        ) from error


def check_combined_jobs(session: Session, tenant_id: uuid.UUID, spec: CombineSpec) -> list[Concept]:
    """Check `jobs`; returns their concepts."""
    concepts: list[Concept] = []
    for i, job_id in enumerate(spec.jobs):
        row = finished_job(session, tenant_id, job_id, f"jobs[{i}]", ("erase",))
        check_not_withheld(session, row, f"jobs[{i}]")
        check_stackable(row, f"jobs[{i}]")
        check_same_model(spec, row.spec["model"], "job")
        concepts += [Concept.model_construct(**c) for c in row.spec["concepts"]]
    return concepts


def resolve_evaluated(
    session: Session, tenant_id: uuid.UUID, spec: EvaluateSpec, dry_run: bool
) -> EvaluateSpec:
    """Check `job_id` or `artifact_id`; a job's own concepts are the default of `concepts`."""
    if spec.job_id is not None:
        row = finished_job(session, tenant_id, spec.job_id, "job_id", WITH_DELTA)
        check_same_model(spec, row.spec["model"], "job")
        concepts = spec.concepts or concepts_of_stack(session, tenant_id, row)
        return spec.model_copy(update={"concepts": concepts})
    artifact_id = str(spec.artifact_id)
    if not (dry_run and artifact_id.startswith(PLACEHOLDER)):
        row_model = uploaded_delta(session, tenant_id, artifact_id, "artifact_id").info["model"]
        check_same_model(spec, row_model, "upload")
    return spec


def resolve_inspected(
    session: Session, tenant_id: uuid.UUID, spec: InspectSpec, dry_run: bool
) -> InspectSpec:
    """Check both sides of an inspection; the concept that the job erased is the default of `concept`."""
    for prefix, job_id, artifact_id in (
        ("", spec.job_id, spec.artifact_id),
        ("against_", spec.against_job_id, spec.against_artifact_id),
    ):
        if job_id is not None:
            row = finished_job(session, tenant_id, job_id, f"{prefix}job_id", WITH_DELTA)
            check_same_model(spec, row.spec["model"], "job")
            if not prefix and spec.concept is None:
                spec = spec.model_copy(update={"concept": only_concept_of_stack(session, tenant_id, row)})
        if artifact_id is not None and not (dry_run and artifact_id.startswith(PLACEHOLDER)):
            upload = uploaded_delta(session, tenant_id, artifact_id, f"{prefix}artifact_id")
            check_same_model(spec, upload.info["model"], "upload")
    return spec


def finished_job(
    session: Session,
    tenant_id: uuid.UUID,
    job_id: str,
    field: str,
    kinds: Sequence[str],
    *,
    with_files: bool = True,
) -> JobRow:
    """A job of one of these kinds that has succeeded and, unless that does not matter, has its artifacts.

    Raises: Problem `invalid_request`.
    """
    try:
        row = jobs.get(session, tenant_id, uuid.UUID(job_id), lock=True)
    except NotFound as error:
        raise invalid(field, f"there is no job {job_id}", "GET /jobs lists yours") from error
    if row.kind not in kinds or row.status != JobStatus.SUCCEEDED:
        raise invalid(
            field,
            f"names a job of kind {row.kind} that is {row.status}",
            f"name one of kind {' or '.join(kinds)} that has succeeded",
        )
    if with_files and any(file.expired_at for file in artifacts.list_of_job(session, tenant_id, row.id)):
        raise invalid(
            field,
            "names a job whose artifacts were deleted",
            f"make them again: POST the spec of GET /jobs/{row.id} to /jobs/{row.kind}",
        )
    return row


def check_not_withheld(session: Session, row: JobRow, field: str) -> None:
    """What is withheld from everybody is not delivered as a part of another job's delta either.

    Raises: Problem `invalid_request`.
    """
    if any(file.withheld for file in artifacts.list_of_job(session, row.tenant_id, row.id)):
        raise invalid(
            field,
            "names a job whose weights are withheld, because its verdict is not 'passed'",
            "name another, or run that one again with evaluation.on_fail: publish_marked",
        )


def uploaded_delta(session: Session, tenant_id: uuid.UUID, artifact_id: str, field: str) -> ArtifactRow:
    """An uploaded delta that still has its bytes.

    Raises: Problem `invalid_request`.
    """
    upload_one = "upload a delta with POST /artifacts"
    try:
        row = artifacts.get(session, tenant_id, uuid.UUID(artifact_id), lock=True)
    except NotFound as error:
        raise invalid(field, f"there is no artifact {artifact_id}", upload_one) from error
    if row.job_id is not None:
        job_field = field.replace("artifact", "job")
        raise invalid(
            field, "names a job's artifact, not an upload", f"give {job_field} '{row.job_id}' instead"
        )
    if row.expired_at is not None:
        raise invalid(field, "names an upload that was deleted", upload_one)
    if "model" not in row.info:
        raise invalid(
            field, f"names '{row.name}', which is not a delta", "upload a LoRA delta with POST /artifacts"
        )
    return row


def check_judge(session: Session, tenant_id: uuid.UUID, judge: JudgeSpec | None, dry_run: bool) -> None:
    """Check that the judge of an evaluation, where it names one, is an upload that still has its bytes.

    Raises: Problem `invalid_request`.
    """
    field, upload_one = "evaluation.judge.artifact_id", "upload a judge with POST /artifacts"
    if judge is None or judge.artifact_id is None or (dry_run and judge.artifact_id.startswith(PLACEHOLDER)):
        return
    try:
        row = artifacts.get(session, tenant_id, uuid.UUID(judge.artifact_id), lock=True)
    except NotFound as error:
        raise invalid(field, f"there is no artifact {judge.artifact_id}", upload_one) from error
    if row.job_id is None and row.expired_at is not None:
        raise invalid(field, "names an upload that was deleted", upload_one)
    if row.job_id is not None or "judge" not in row.info:
        raise invalid(field, f"names '{row.name}', which is not an uploaded judge", upload_one)


def check_same_model(spec: AnySpec, model: str, what: str) -> None:
    if spec.model != model:
        raise invalid("model", f"is '{spec.model}', but the {what} is of '{model}'", f"give model '{model}'")


def check_stackable(row: JobRow, field: str) -> None:
    """Only LoRAs on the denoising network can be added to each other."""
    method = row.spec.get("method", {}).get("name")
    if method in UNSTACKABLE:
        raise invalid(
            field,
            f"names a job of method '{method}', whose delta is not a LoRA on the denoising network",
            "name a job of another method",
        )


def check_not_erased(spec: EraseSpec, base: JobRow) -> None:
    """What the base job erased can neither be preserved nor be a target."""
    erased_names = Names(words_of(base.spec.get("concepts", [])))
    wanted = [("preserve", name) for name in spec.preserve]
    for i, concept in enumerate(spec.concepts):
        if concept.target:
            wanted.append((f"concepts[{i}].target", concept.target))
        wanted += [(f"concepts[{i}].attributes", attribute) for attribute in concept.attributes]
    for field, name in wanted:
        if erased_names.find(name) is not None:
            raise invalid(
                field,
                f"'{name}' was erased by base_job_id",
                "name another, or remove that job from the stack with POST /jobs/combine",
            )


def words_of(concepts: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names and synonyms of concepts, as a stored spec has them."""
    return [word for c in concepts for word in (c["name"], *c.get("synonyms", ()))]


def concepts_of_stack(session: Session, tenant_id: uuid.UUID, row: JobRow) -> list[Concept]:
    """All concepts that a job's delta erases: its own, and those of the jobs it builds on or combines."""
    return [Concept.model_construct(**fields) for fields in jobs.concepts_of_stack(session, tenant_id, row)]


def only_concept_of_stack(session: Session, tenant_id: uuid.UUID, row: JobRow) -> Concept | None:
    """The one concept that a job's delta erases; None for several.

    Also None for one learned from images, as its name is not a word of the model.
    """
    erased = concepts_of_stack(session, tenant_id, row)
    if len(erased) != 1 or erased[0].images:
        return None
    return Concept(name=erased[0].name, synonyms=erased[0].synonyms)


def has_placeholder(concept: Concept) -> bool:
    """Whether some of a concept's images or masks are not uploaded yet, as a dry run allows."""
    return any(id_.startswith(PLACEHOLDER) for id_ in (*concept.images, *concept.masks))


def check_images(session: Session, tenant_id: uuid.UUID, concepts: dict[int, Concept]) -> None:
    """Check the images and masks of concepts, by their index in the spec.

    They must be the tenant's uploads; a concept's images must include enough different ones; a mask must have
    its image's size and keep some of it but not all.
    Raises: Problem `invalid_request`.
    """
    ids: set[uuid.UUID] = set()
    for concept in concepts.values():
        ids.update(uuid.UUID(id_) for id_ in (*concept.images, *concept.masks))
    rows = artifacts.get_many(session, tenant_id, ids) if ids else {}
    for i, concept in concepts.items():
        images = [
            uploaded_image(rows, id_, f"concepts[{i}].images[{k}]") for k, id_ in enumerate(concept.images)
        ]
        different = len({row.sha256 for row in images})
        if images and different < MIN_IMAGES:
            plural = "" if different == 1 else "s"
            raise invalid(
                f"concepts[{i}].images",
                f"{len(images)} uploads contain {different} different image{plural}, too few to learn from",
                f"upload {MIN_IMAGES} to 10 different ones",
            )
        for k, id_ in enumerate(concept.masks):
            field = f"concepts[{i}].masks[{k}]"
            check_mask(uploaded_image(rows, id_, field), images[k], field)


def uploaded_image(rows: dict[uuid.UUID, ArtifactRow], artifact_id: str, field: str) -> ArtifactRow:
    """The row of an uploaded image. Raises: Problem `invalid_request`."""
    upload_one = "upload one with POST /artifacts"
    row = rows.get(uuid.UUID(artifact_id))
    if row is None:
        raise invalid(field, f"there is no image {artifact_id}", upload_one)
    if row.expired_at is not None:
        raise invalid(field, f"names the image {artifact_id}, which was deleted", upload_one)
    if row.job_id is not None or "width" not in row.info:
        raise invalid(field, f"names '{row.name}', which is not an uploaded image", upload_one)
    return row


def check_mask(mask: ArtifactRow, image: ArtifactRow, field: str) -> None:
    """A mask has its image's size, and is neither all black nor all white."""
    mask_size, size = ((row.info["width"], row.info["height"]) for row in (mask, image))
    if mask_size != size:
        raise invalid(
            field,
            f"has {mask_size[0]} x {mask_size[1]} px, its image {size[0]} x {size[1]}",
            "give a mask of the image's size",
        )
    if mask.info["light"] in (0.0, 1.0):
        what = (
            "is all black and keeps nothing"
            if mask.info["light"] == 0
            else "is all white and keeps everything"
        )
        raise invalid(field, what, "make white what to keep, and black what not")


def cropping_notes(session: Session, tenant_id: uuid.UUID, spec: AnySpec) -> list[str]:
    """A note for each concept with uploaded images that are not square: they are cropped."""
    notes = []
    for i, concept in enumerate(spec.concepts if isinstance(spec, EraseSpec) else ()):
        if not concept.images or has_placeholder(concept):
            continue
        ids = [uuid.UUID(id_) for id_ in concept.images]
        rows = artifacts.get_many(session, tenant_id, set(ids))
        cropped = sum(rows[id_].info["width"] != rows[id_].info["height"] for id_ in ids)
        if cropped:
            notes.append(
                f"concepts[{i}].images: {cropped} of {len(ids)} are not square; only the middle square of"
                " each is learned from."
            )
    return notes
