"""What the concept graph foresaw of an erasure, beside what was measured: the drop in CLIP score of each
preserved concept.
"""

from collections.abc import Sequence

from expunge.core.concepts import distances
from expunge.core.evaluation.report import Foreseen, Report
from expunge.core.impact import graph_of
from expunge.core.models import Denoiser
from expunge.core.specs import Concept, MethodSpec


def foreseen(
    model: Denoiser, concepts: Sequence[Concept], method: MethodSpec, report: Report
) -> list[Foreseen]:
    """Of every preserved concept that the graph beside the model knows; empty without a graph, or with a
    method it was not scaled to.
    """
    graph = graph_of(model.folder)
    scale = graph.scale(method.name) if graph else None
    erased = [c.name for c in concepts if not c.attributes and graph is not None and graph.find(c.name)]
    known = [
        (name, drop)
        for name in report.preserved
        if (drop := report.value("clip_delta", name)) is not None and graph and graph.find(name)
    ]
    if graph is None or scale is None or not erased or not known:
        return []
    away = [distances(model, e, [n for n, _ in known]).tolist() for e in erased]
    found = []
    for j, (name, drop) in enumerate(known):
        clip, _ = graph.predict(
            min(row[j] for row in away), graph.concepts[str(graph.find(name))]["g0"], scale
        )
        found.append(
            Foreseen(concept=name, predicted=clip.value, low=clip.low, high=clip.high, measured=drop)
        )
    return sorted(found, key=lambda f: -f.predicted)
