"""report.html: an evaluation as one page that loads nothing from elsewhere."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from expunge.core.delivery import plots
from expunge.core.delivery.attacks import attack_panels
from expunge.core.delivery.grid import data_uri, first_rows
from expunge.core.delivery.review import (
    captions,
    evidence,
    most_hurt,
    question,
    sorted_advice,
    telling_row,
    worst_pictures,
)
from expunge.core.evaluation.pictures import Role
from expunge.core.evaluation.reasons import scope_of
from expunge.core.evaluation.report import Evaluation, Report
from expunge.core.evaluation.sheet import Metric
from expunge.core.specs.metrics import COSTS, format_metric, title_of

SHOWN_ERASED, SHOWN_PRESERVED = 8, 1  # pictures of a concept on the page


def create_environment() -> Environment:
    """The templates of this folder, with the filters and functions that they use."""
    env = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=select_autoescape(["html.j2"]),
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    env.filters["metric"] = format_metric
    env.globals["title_of"] = title_of
    env.globals["scope_of"] = scope_of
    env.globals["question"] = question
    return env


def concept_panels(evaluation: Evaluation) -> list[dict[str, Any]]:
    """A panel for each erased concept, then for each preserved one."""
    report = evaluation.report
    erased = [concept_panel(evaluation, name, "erased", SHOWN_ERASED) for name in report.erased]
    preserved = [concept_panel(evaluation, name, "preserved", SHOWN_PRESERVED) for name in most_hurt(report)]
    return erased + preserved


def concept_panel(evaluation: Evaluation, name: str, role: Role, count: int) -> dict[str, Any]:
    """A concept's first `count` pictures before and after, as data: URIs, and its numbers."""
    report = evaluation.report

    # The number that speaks for the concept: a debiased one is judged by its attributes' shares
    if role == "preserved":
        rate = "psr1"
    elif any(d.concept == name for d in report.distributions):
        rate = "attribute_distance"
    else:
        rate = "esr1"

    rows = [i for i, picture in enumerate(evaluation.pictures) if picture.concept == name]
    first = first_rows(evaluation.pictures, name, count if role == "erased" else len(rows))
    if role == "preserved":
        first = telling_row(evaluation, first)[:count]
    return {
        "role": role,
        "name": name,
        "pairs": [picture_pair(evaluation, i) for i in first],
        "same": all(np.array_equal(evaluation.base[i], evaluation.sanitized[i]) for i in rows),
        "rate": rate,
        "value": report.value(rate, name),
        "base": report.value(f"{rate}_base", name),
        "edit": report.value("edit1", name) if role == "erased" else None,
        "recovery": report.value("rsr1", name),
    }


def picture_pair(evaluation: Evaluation, row: int) -> dict[str, Any]:
    """One prompt and seed as both models drew it and, of a hidden concept, as the recovery key does."""
    picture, recovered = evaluation.pictures[row], evaluation.recovered.get(row)
    return {
        "before": data_uri(evaluation.base[row]),
        "after": data_uri(evaluation.sanitized[row]),
        "recovered": None if recovered is None else data_uri(recovered),
        "prompt": picture.prompt,
        "seed": picture.seed,
        **captions(evaluation, row),
    }


def overall_rows(report: Report) -> list[dict[str, Metric | bool | None]]:
    """The metrics over all concepts, each beside the base model's where there is one."""
    overall = {m.name: m for m in report.metrics if m.concept is None}
    return [
        {"metric": metric, "base": overall.get(f"{name}_base"), "cost": name in COSTS}
        for name, metric in overall.items()
        if not name.endswith("_base")
    ]


def render_report(evaluation: Evaluation, history: Sequence[dict[str, Any]], facts: dict[str, Any]) -> str:
    """The page.

    history: the loss, and the target where one was chosen, of each training step; facts: title, summary,
    limits, learned words and details of the run.
    """
    report = evaluation.report
    drawings = {
        "esr": plots.plot_rates(report, "esr"),
        "psr": plots.plot_rates(report, "psr"),
        "shares": [(d, plots.plot_distribution(d)) for d in report.distributions],
        "impact": plots.plot_impact(report.impact),
        "loss": plots.plot_loss(history),
        "targets": plots.plot_targets(history),
    }
    return (
        create_environment()
        .get_template("report.html.j2")
        .render(
            report=report,
            has_ner=any(m.name.startswith("ner_") for m in report.metrics),
            advice=sorted_advice(report),
            evidence=evidence(evaluation),
            worst=worst_pictures(evaluation),
            panels=concept_panels(evaluation),
            attack_panels=attack_panels(evaluation.broken),
            rows=overall_rows(report),
            plots=drawings,
            facts=facts,
        )
    )
