"""The bundle of an inspection: report.json, report.html with the ranking drawn, signed manifest."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from expunge.core.delivery import manifest, signing
from expunge.core.delivery.bundle import base_facts, seal
from expunge.core.delivery.grid import data_uri
from expunge.core.delivery.page import environment
from expunge.core.delivery.plots import BAR, LEFT, RIGHT, WIDTH, frame, text
from expunge.core.evaluation.judges import Images
from expunge.core.evaluation.pictures import Picture
from expunge.core.inspection import Inspection, Moved
from expunge.core.models import Denoiser
from expunge.core.specs import InspectSpec


def bars(rows: Sequence[Moved]) -> str:
    """A bar for how far each concept moved and a hollow mark for how far it is from what the changed one
    became.
    """
    top = max((max(r.moved, r.away) for r in rows), default=1.0) or 1.0
    height, body = len(rows) * BAR + 12, list[str]()

    def x(value: float) -> float:
        return LEFT + value / top * (WIDTH - LEFT - RIGHT)

    for i, row in enumerate(rows):
        y = 16 + i * BAR
        label = row.concept if len(row.concept) < 25 else row.concept[:23] + "…"
        body += [
            text(LEFT - 12, y + 4, label, "end"),
            (
                f'<rect x="{LEFT}" y="{y - 8}" width="{x(row.moved) - LEFT:.1f}" height="15" rx="3"'
                ' class="bar"/>'
            ),
            f'<g class="base"><circle cx="{x(row.away):.1f}" cy="{y - 0.5:.1f}" r="4.5"/></g>',
            text(WIDTH - RIGHT + 14, y + 4, f"{row.moved:.4f}"),
        ]
    return frame(height, "How far each concept moved", body)


def panels(pictures: Sequence[Picture], before: Images, after: Images) -> list[dict[str, Any]]:
    """Each concept's pictures in pairs, in the order of the pictures."""
    found: dict[str, list[dict[str, Any]]] = {}
    for picture, old, new in zip(pictures, before, after, strict=True):
        pair = {
            "before": data_uri(old),
            "after": data_uri(new),
            "prompt": picture.prompt,
            "seed": picture.seed,
        }
        found.setdefault(picture.concept, []).append(pair)
    return [{"name": name, "pairs": pairs} for name, pairs in found.items()]


def write_inspection(
    out: Path,
    model: Denoiser,
    source: str,
    spec: InspectSpec,
    report: Inspection,
    drawn: tuple[Sequence[Picture], Images, Images] | None,
    *,
    key: signing.Key | None,
    context: dict[str, Any],
) -> list[Path]:
    """Write report.json, report.html and the sealed manifest; returns the bundle's files.

    `drawn`: pictures by the old and by the new model.
    """
    (out / "report.json").write_text(report.model_dump_json(indent=1) + "\n")
    against = (
        "the base model"
        if report.digests["theta"] == model.digest
        else f"delta {report.digests['theta'][:12]}…"
    )
    inspected = f"delta {report.digests['theta_prime'][:12]}…"
    found = "found as what moved most" if report.found else "as asked"
    page = environment().get_template("inspection.html.j2")
    html = page.render(
        report=report,
        summary=(
            f"{inspected} beside {against} of '{spec.model}', over {report.words} concepts; changed:"
            f" {report.changed} ({found})."
        ),
        ranking=bars(report.ranking),
        panels=panels(*drawn) if drawn else [],
        left=against,
        right=inspected,
        details={
            **report.digests,
            "seed": spec.seed,
            "latents": spec.trajectories * spec.timesteps,
            **manifest.libraries(),
        },
    )
    (out / "report.html").write_text(html)
    sealed = {
        "kind": "inspect",
        "context": context,
        "base_model": base_facts(model, source, spec.model),
        "delta": {"sha256": report.digests["theta_prime"]},
        "against": {"sha256": report.digests["theta"]},
        "spec": spec.model_dump(mode="json"),
        "changed": report.changed,
        "ranking": [row.concept for row in report.ranking],
    }
    return seal(out, sealed, key)
