"""What the concept graph predicts of an erasure, beside what was measured: the drop in CLIP score of each
preserved concept.
"""

from collections.abc import Sequence

from expunge.core.concepts import distances
from expunge.core.evaluation.report import PredictedImpact, Report
from expunge.core.impact import graph_of
from expunge.core.models import Denoiser
from expunge.core.specs import Concept, MethodSpec


def predict_impact(
    model: Denoiser, concepts: Sequence[Concept], method: MethodSpec, report: Report
) -> list[PredictedImpact]:
    """A prediction for each preserved concept that the graph beside the model knows, the largest first. Empty
    where there is no graph, or where it was not scaled to the method.
    """
    graph = graph_of(model.folder)
    scale = graph.scale(method.name) if graph is not None else None
    if graph is None or scale is None:
        return []

    # What the graph knows of the erased and of the preserved concepts; of these also what was measured
    erased = [c.name for c in concepts if not c.attributes and graph.find(c.name)]
    measured = dict[str, float]()
    for name in report.preserved:
        drop = report.value("clip_delta", name)
        if drop is not None and graph.find(name):
            measured[name] = drop
    if not erased or not measured:
        return []

    # The erased concept that is nearest to each counts
    rows = [distances(model, name, list(measured)).tolist() for name in erased]
    predictions = []
    for j, (name, drop) in enumerate(measured.items()):
        nearest = min(row[j] for row in rows)
        clip, _ = graph.predict(nearest, graph.concepts[str(graph.find(name))]["g0"], scale)
        predictions.append(
            PredictedImpact(concept=name, predicted=clip.value, low=clip.low, high=clip.high, measured=drop)
        )
    return sorted(predictions, key=lambda row: -row.predicted)
