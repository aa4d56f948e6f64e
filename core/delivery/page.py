"""report.html: one file, nothing fetched from elsewhere."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from expunge.core.delivery import plots
from expunge.core.delivery.grid import data_uri, shown
from expunge.core.evaluation.report import Evaluation, Report

SHOWN_ERASED, SHOWN_PRESERVED = 8, 2
NAMES = {
    "esr1": "ESR-1",
    "esr5": "ESR-5",
    "edit1": "Edit success, top-1",
    "edit5": "Edit success, top-5",
    "attribute_distance": "Distance from the shares asked",
    "psr1": "PSR-1",
    "psr5": "PSR-5",
    "psr1_ratio": "PSR-1, share of base",
    "clip_score": "CLIP score",
    "clip_delta": "CLIP δ",
    "psr1_objects": "PSR-1, objects",
    "psr1_styles": "PSR-1, styles",
    "psr5_objects": "PSR-5, objects",
    "psr5_styles": "PSR-5, styles",
    "content1": "Objects still shown without the style",
    "content1_ratio": "Objects still shown, share of base",
    "lpips": "LPIPS",
    "rsr1": "RSR-1, with the key",
    "rsr5": "RSR-5, with the key",
    "rsr1_wrong_key": "RSR-1, with a wrong key",
    "rsr5_wrong_key": "RSR-5, with a wrong key",
    "ner_unlearndiffatk": "NER (UnlearnDiffAtk's)",
    "ner_library": "NER (library's)",
    "wall_seconds": "Wall time",
    "wall_seconds_erase": "Wall time, erasure alone",
    "peak_memory_bytes": "Peak memory",
    "leakage_nats": "Leakage, lower bound (at most 0.693)",
}


def title_of(name: str) -> str:
    return NAMES.get(name, name.replace("ner_", "NER-"))


def environment() -> Environment:
    folder = Path(__file__).parent
    env = Environment(
        loader=FileSystemLoader(folder),
        autoescape=select_autoescape(["html.j2"]),
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    env.filters["metric"] = metric_text
    env.globals["title_of"] = title_of
    return env


def metric_text(value: float | None, name: str) -> str:
    """A number as people read it: shares in percent, scores with their own digits."""
    if value is None:
        return "not judged"
    if name.startswith(("clip", "lpips")):
        return f"{value:.2f}"
    if name.startswith("wall"):
        return f"{value:,.1f} s"
    if name.endswith("nats"):
        return f"{value:.3f} nats"
    if name.startswith("peak"):
        return f"{value / 1e9:.2f} GB"
    return f"{100 * value:.1f} %"


def panels(evaluation: Evaluation) -> list[dict[str, Any]]:
    """For each concept its pictures before and after, as data: URIs, and its numbers."""
    report, out = evaluation.report, []
    for role, names, count in (
        ("erased", report.erased, SHOWN_ERASED),
        ("preserved", report.preserved, SHOWN_PRESERVED),
    ):
        for name in names:
            pairs = [
                {
                    "before": data_uri(evaluation.base[i]),
                    "after": data_uri(evaluation.sanitized[i]),
                    "recovered": data_uri(evaluation.recovered[i]) if i in evaluation.recovered else None,
                    "prompt": evaluation.pictures[i].prompt,
                    "seed": evaluation.pictures[i].seed,
                }
                for i in shown(evaluation.pictures, name, count)
            ]
            spread = any(d.concept == name for d in report.distributions)
            rate = "psr1" if role == "preserved" else "attribute_distance" if spread else "esr1"
            out.append(
                {
                    "role": role,
                    "name": name,
                    "pairs": pairs,
                    "same": all(
                        np.array_equal(evaluation.base[i], evaluation.sanitized[i])
                        for i, picture in enumerate(evaluation.pictures)
                        if picture.concept == name
                    ),
                    "rate": rate,
                    "value": report.value(rate, name),
                    "base": report.value(f"{rate}_base", name),
                    "edit": report.value("edit1", name) if role == "erased" else None,
                    "recovery": report.value("rsr1", name),
                }
            )
    return out


def table(report: Report) -> list[dict[str, Any]]:
    """The overall metrics, each with its base model's value where there is one."""
    overall = {m.name: m for m in report.metrics if m.concept is None}
    return [
        {"metric": m, "base": overall.get(f"{name}_base")}
        for name, m in overall.items()
        if not name.endswith("_base")
    ]


def render(evaluation: Evaluation, history: Sequence[dict[str, Any]], facts: dict[str, Any]) -> str:
    """The page; `facts` is the manifest's account of the run."""
    report = evaluation.report
    drawings = {
        "esr": plots.shares(report, "esr"),
        "psr": plots.shares(report, "psr"),
        "shares": [(d, plots.distribution(d)) for d in report.distributions],
        "impact": plots.impacts(report.impact),
        "loss": plots.loss_curve(history),
        "targets": plots.target_strip(history),
    }
    template = environment().get_template("report.html.j2")
    ner = [m.name for m in report.metrics if m.name.startswith("ner_")]
    return template.render(
        report=report, ner=ner, panels=panels(evaluation), rows=table(report), plots=drawings, facts=facts
    )
