"""The bundle of an inspection: report.json, report.html with the ranking drawn, signed manifest."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from expunge.core.delivery import manifest
from expunge.core.delivery.bundle import Bundle
from expunge.core.delivery.grid import data_uri
from expunge.core.delivery.page import create_environment
from expunge.core.delivery.plots import BAR, LEFT, RIGHT, WIDTH, draw_dot, draw_row_names, wrap_svg
from expunge.core.evaluation.judges import Images
from expunge.core.evaluation.pictures import Picture
from expunge.core.inspection import Inspection, Moved
from expunge.core.specs import InspectSpec

Drawn = tuple[Sequence[Picture], Images, Images]
"""Pictures, as the old and as the new model drew them, (N, H, W, 3) each."""


def plot_ranking(rows: Sequence[Moved]) -> str:
    """A bar for how far each concept moved, and a hollow mark for how far it is from what the changed concept
    became.
    """
    top = max((max(row.moved, row.away) for row in rows), default=1.0) or 1.0

    def place(value: float) -> float:
        return LEFT + value / top * (WIDTH - LEFT - RIGHT)

    body = []
    for i, row in enumerate(rows):
        y = 16 + i * BAR
        width = place(row.moved) - LEFT
        body += draw_row_names(y, row.concept, f"{row.moved:.4f}")
        body.append(f'<rect x="{LEFT}" y="{y - 8}" width="{width:.1f}" height="15" rx="3" class="bar"/>')
        body.append(f'<g class="base">{draw_dot(place(row.away), y - 0.5)}</g>')
    return wrap_svg(len(rows) * BAR + 12, "How far each concept moved", body)


def pair_pictures(pictures: Sequence[Picture], before: Images, after: Images) -> list[dict[str, Any]]:
    """Each concept's pictures in pairs, in the order of the pictures."""
    pairs: dict[str, list[dict[str, Any]]] = {}
    for picture, old, new in zip(pictures, before, after, strict=True):
        pair = {
            "before": data_uri(old),
            "after": data_uri(new),
            "prompt": picture.prompt,
            "seed": picture.seed,
        }
        pairs.setdefault(picture.concept, []).append(pair)
    return [{"name": name, "pairs": found} for name, found in pairs.items()]


def render_inspection(
    report: Inspection,
    spec: InspectSpec,
    base_digest: str,
    drawn: Drawn | None,
) -> str:
    """report.html."""
    inspected = f"delta {report.digests['theta_prime'][:12]}…"
    against = f"delta {report.digests['theta'][:12]}…"
    if report.digests["theta"] == base_digest:
        against = "the base model"
    chosen = "the concept that moved most" if report.found else "as requested"
    details = {
        **report.digests,
        "seed": spec.seed,
        "latents": spec.trajectories * spec.timesteps,
        **manifest.libraries(),
    }
    template = create_environment().get_template("inspection.html.j2")
    return template.render(
        report=report,
        summary=(
            f"{inspected} compared with {against} of '{spec.model}', over {report.words} concepts. Changed"
            f" concept: {report.changed} ({chosen})."
        ),
        ranking=plot_ranking(report.ranking),
        panels=pair_pictures(*drawn) if drawn else [],
        left=against,
        right=inspected,
        details=details,
    )


def write_inspection(
    bundle: Bundle,
    spec: InspectSpec,
    report: Inspection,
    drawn: Drawn | None,
) -> list[Path]:
    """Write report.json, report.html and the signed manifest; returns the bundle's files."""
    (bundle.folder / "report.json").write_text(report.model_dump_json(indent=1) + "\n")
    html = render_inspection(report, spec, bundle.model.digest, drawn)
    (bundle.folder / "report.html").write_text(html)
    stated = {
        "delta": {"sha256": report.digests["theta_prime"]},
        "against": {"sha256": report.digests["theta"]},
        "spec": spec.model_dump(mode="json"),
        "changed": report.changed,
        "ranking": [row.concept for row in report.ranking],
    }
    return bundle.seal("inspect", stated)
