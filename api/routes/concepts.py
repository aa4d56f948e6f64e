"""Concepts: what an erasure would hurt, and what moved between two models."""

from typing import Annotated

from fastapi import APIRouter, Body
from fastapi.responses import JSONResponse

from expunge.api import examples, suggestions
from expunge.api.deps import (
    JSON,
    DryRunQuery,
    JobsReader,
    JobsWriter,
    ServicesDep,
    TicketDep,
    WaitDep,
    accepts,
)
from expunge.api.model_registry import known_model
from expunge.api.problems import Problem, invalid, responses
from expunge.api.routes.jobs import CREATED, ENDED, create
from expunge.api.schemas import ConceptTargets, EstimatedCost, HurtConcept, Impact, Job, ProposedTarget
from expunge.core.impact import graph_of
from expunge.core.sources import folder_of
from expunge.core.specs import ImpactSpec, InspectSpec

NOTES = [
    (
        "Predicted from distance in the text encoder and the base model's own score; measured on single"
        " concepts erased by one method."
    ),
    (
        "Several concepts erased together are taken one by one: each other concept counts by the erased one"
        " nearest to it."
    ),
]
router = APIRouter(tags=["concepts"], dependencies=[accepts(JSON)])


@router.post("/inspect", status_code=202, response_model=Job, responses=ENDED | CREATED)
async def create_inspect_job(
    spec: Annotated[InspectSpec, Body(openapi_examples=examples.INSPECT)],
    services: ServicesDep,
    caller: JobsWriter,
    ticket: TicketDep,
    wait: WaitDep,
    dry_run: DryRunQuery = False,
) -> JSONResponse:
    """Rank the concepts that moved most between two models, as a job of kind `inspect`.

    Compares a finished job's model, or an uploaded delta, with the base model or with another delta (Eq. 19
    of Bui's talk on erasing concepts). The job delivers report.json, and report.html with the ranking drawn
    and pictures before and after.
    """
    return await create(services, caller, ticket, "inspect", spec, dry_run, wait)


@router.post(
    "/concepts/impact",
    responses=responses(
        "malformed_request",
        "payload_too_large",
        "unsupported_media_type",
        "invalid_request",
        "no_concept_graph",
    ),
)
def predict_impact(
    spec: Annotated[ImpactSpec, Body(openapi_examples=examples.IMPACT)], services: ServicesDep, _: JobsReader
) -> Impact:
    """Predict what an erasure would hurt, which targets are best, and what it would cost.

    Answers at once from the model's concept graph (AGE, Bui et al., ICLR 2025), which was measured
    beforehand; nothing is run or stored. The erase job's report later shows the prediction beside what was
    measured.
    """
    known_model(services, spec.model)
    graph = graph_of(folder_of(services.settings.models[spec.model]))
    if graph is None:
        raise Problem(
            "no_concept_graph",
            f"The concept graph of '{spec.model}' was not measured: erase with POST /jobs/erase, then POST"
            " /inspect the job.",
        )
    for i, concept in enumerate(spec.concepts):
        if graph.find(concept.name) is None:
            meant = suggestions.ask(suggestions.concept(concept.name, graph.names, graph.forms))
            remedy = (
                f"{meant}{'or ' if meant else ''}erase it with POST /jobs/erase and look at what moved with"
                " POST /inspect"
            )
            raise invalid(
                f"concepts[{i}]", f"'{concept.name}' is not in the concept graph of '{spec.model}'", remedy
            )
    scale, cost = graph.scale(spec.method.name), graph.cost(spec.method, len(spec.concepts))
    how = dict(graph.content["measured_with"]["method"])
    settings = ", ".join(
        f"{k} {v:g}" if isinstance(v, float) else f"{k} {v}" for k, v in how.items() if k != "name"
    )
    notes = [
        *NOTES,
        (
            f"The graph was measured by erasing {len(graph.content['erased'])} concepts with {how['name']}"
            f" ({settings})."
        ),
    ]
    if scale is None:
        notes.append(
            f"'{spec.method.name}' was not measured on this model: the drops are those of the graph's own"
            " method."
        )
    return Impact(
        model=spec.model,
        method=spec.method.name,
        hurt=[
            HurtConcept.model_validate(h)
            for h in graph.hurt(spec.concepts, 1.0 if scale is None else scale, spec.top)
        ],
        targets=(
            [
                ConceptTargets(
                    concept=c.name,
                    targets=[
                        ProposedTarget.model_validate(t)
                        for t in graph.targets(c, spec.concepts, spec.targets)
                    ],
                )
                for c in spec.concepts
            ]
            if spec.targets
            else []
        ),
        cost=EstimatedCost.model_validate(cost) if cost else None,
        scale=scale,
        held_out=graph.content["fit"]["clip"]["held_out"],
        notes=notes,
    )
