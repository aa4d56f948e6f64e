"""Concepts: what an erasure would hurt, and what changed between two models."""

from typing import Annotated

from fastapi import APIRouter, Body
from fastapi.responses import JSONResponse

from expunge.api import examples, suggestions
from expunge.api.deps import JSON, DryRunQuery, JobsReader, JobsWriter, ServicesDep, WaitDep, accepts
from expunge.api.idempotency import IdempotencyKeyDep
from expunge.api.model_registry import check_model
from expunge.api.problems import Problem, invalid
from expunge.api.responses import DRY_RUN_OR_ENDED, JOB_ACCEPTED, JSON_BODY, problem_responses
from expunge.api.schemas.concepts import ConceptTargets, EstimatedCost, HurtConcept, Impact, ProposedTarget
from expunge.api.schemas.jobs import Job
from expunge.api.services import Services
from expunge.api.submission import create_job
from expunge.core.impact import Graph, graph_of
from expunge.core.sources import folder_of
from expunge.core.specs import ImpactSpec, InspectSpec

NOTES = (
    "Predicted from the distance in the text encoder and the base model's own score; measured on erasures of"
    " single concepts by one method.",
    "Each other concept is predicted from the erased concept nearest to it, also when several are erased"
    " together.",
)
router = APIRouter(tags=["concepts"], dependencies=[accepts(JSON)])


@router.post("/inspect", status_code=202, response_model=Job, responses=DRY_RUN_OR_ENDED | JOB_ACCEPTED)
async def create_inspect_job(
    spec: Annotated[InspectSpec, Body(openapi_examples=examples.INSPECT)],
    services: ServicesDep,
    caller: JobsWriter,
    key: IdempotencyKeyDep,
    wait: WaitDep,
    dry_run: DryRunQuery = False,
) -> JSONResponse:
    """Rank the concepts that changed most between two models, as a job of kind `inspect`.

    Compares the model of a finished job, or an uploaded delta, with the base model or with another delta (Eq.
    19 of Bui's talk on erasing concepts). The job delivers report.json, and report.html with the ranking and
    pictures before and after.
    """
    return await create_job(services, caller, key, "inspect", spec, dry_run, wait)


@router.post("/concepts/impact", responses=problem_responses(*JSON_BODY, "no_concept_graph"))
def predict_impact(
    spec: Annotated[ImpactSpec, Body(openapi_examples=examples.IMPACT)], services: ServicesDep, _: JobsReader
) -> Impact:
    """Predict what an erasure would hurt, which targets are best, and what it would cost.

    Answers at once from the model's concept graph (AGE, Bui et al., ICLR 2025), which was measured in
    advance; nothing is run or stored. The report of an erase job later shows the prediction beside the
    measurement.
    """
    check_model(services, spec.model)
    graph = concept_graph(services, spec)

    # The concepts that the erasure hurts, and the targets that each concept may be mapped to
    scale = graph.scale(spec.method.name)
    hurt = graph.hurt(spec.concepts, 1.0 if scale is None else scale, spec.top)
    targets = []
    for concept in spec.concepts if spec.targets else ():
        proposed = graph.targets(concept, spec.concepts, spec.targets)
        targets.append(
            ConceptTargets(
                concept=concept.name, targets=[ProposedTarget.model_validate(each) for each in proposed]
            )
        )
    cost = graph.cost(spec.method, len(spec.concepts))
    return Impact(
        model=spec.model,
        method=spec.method.name,
        hurt=[HurtConcept.model_validate(each) for each in hurt],
        targets=targets,
        cost=EstimatedCost.model_validate(cost) if cost else None,
        scale=scale,
        held_out=graph.content["fit"]["clip"]["held_out"],
        notes=impact_notes(graph, spec.method.name, scale),
    )


def concept_graph(services: Services, spec: ImpactSpec) -> Graph:
    """The model's concept graph, with all of the spec's concepts in it.

    Raises: Problem `no_concept_graph`; `invalid_request` for a concept that is not in the graph.
    """
    graph = graph_of(folder_of(services.settings.models[spec.model]))
    if graph is None:
        raise Problem(
            "no_concept_graph",
            f"The model '{spec.model}' has no measured concept graph: erase with POST /jobs/erase, then POST"
            " /inspect the job.",
        )
    for i, concept in enumerate(spec.concepts):
        if graph.find(concept.name) is None:
            meant = suggestions.closest_concept(concept.name, graph.names, graph.forms)
            remedy = "erase it with POST /jobs/erase and see what changed with POST /inspect"
            raise invalid(
                f"concepts[{i}]",
                f"'{concept.name}' is not in the concept graph of '{spec.model}'",
                f"{suggestions.did_you_mean(meant)}or {remedy}" if meant else remedy,
            )
    return graph


def impact_notes(graph: Graph, method: str, scale: float | None) -> list[str]:
    """How far the prediction can be trusted."""
    measured_with = dict(graph.content["measured_with"]["method"])
    name = measured_with.pop("name")
    settings = ", ".join(
        f"{field} {value:g}" if isinstance(value, float) else f"{field} {value}"
        for field, value in measured_with.items()
    )
    notes = [
        *NOTES,
        f"The graph was measured on {len(graph.content['erased'])} erasures with {name} ({settings}).",
    ]
    if scale is None:
        notes.append(
            f"'{method}' was not measured on this model: the predicted drops are those of the graph's own"
            " method."
        )
    return notes
