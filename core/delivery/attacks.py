"""What the page says of the attacks: a panel for each concept, with plots and the best attempts' pictures."""

from collections.abc import Sequence
from typing import Any

from expunge.core.attacks import Broken
from expunge.core.attacks.result import AttackResult, Rate
from expunge.core.delivery import plots
from expunge.core.delivery.grid import data_uri

SHOWN = 8  # pictures of an attempt
NEEDS = {
    "prompts": "prompts alone",
    "text encoder": "the text encoder",
    "weights": "the weights",
    "delta": "the base model and the delta's file",
}


def attack_panels(broken: Sequence[Broken]) -> list[dict[str, Any]]:
    """A panel for each attacked concept."""
    concepts = dict.fromkeys(each.result.concept for each in broken)
    return [panel_of(name, [each for each in broken if each.result.concept == name]) for name in concepts]


def panel_of(concept: str, broken: Sequence[Broken]) -> dict[str, Any]:
    """The attacks on one concept."""
    results = [each.result for each in broken]
    titles = [title_of(result) for result in results]
    marks = [
        (title, result.sanitized, result.base, result.control)
        for title, result in zip(titles, results, strict=True)
    ]
    return {
        "concept": concept,
        "plot": plots.plot_attacks(marks),
        "curve": plots.plot_curves(
            [(title, curves_of(r)) for title, r in zip(titles, results, strict=True) if r.sanitized.curve]
        ),
        "rows": [row_of(title, each) for title, each in zip(titles, broken, strict=True)],
    }


def title_of(result: AttackResult) -> str:
    """The attack's name, and what tells it from another attack of that name."""
    told = {"vectors": "{} vectors", "tokens": "{} tokens", "on": "on {}", "trained_on": "trained on {}"}
    defaults = type(result.budget)().model_dump()
    given = result.budget.model_dump()
    details = [
        text.format(given[name]) for name, text in told.items() if given.get(name) != defaults.get(name)
    ]
    return f"{result.attack} ({', '.join(details)})" if details else result.attack


def row_of(title: str, broken: Broken) -> dict[str, Any]:
    """One attack: its outcome, its budget, and the pictures of its best attempt."""
    result = broken.result
    budget = [f"{result.budget.restarts} attempt{'s' if result.budget.restarts > 1 else ''}"]
    if steps := result.budget.searched():
        budget.append(f"{steps} steps")
    budget.append(f"{result.sanitized.n} tries each")
    return {
        "title": title,
        "status": result.status,
        "needs": NEEDS[result.needs],
        "budget": ", ".join(budget),
        "attempts": ", ".join(f"{share:.0%}" for share in result.sanitized.attempts),
        "found": result.sanitized.found,
        "images": [
            (data_uri(image), bool(hit))
            for image, hit in zip(broken.images[:SHOWN], broken.hits[:SHOWN], strict=True)
        ],
    }


def curves_of(result: AttackResult) -> dict[str, dict[int, float]]:
    """Success by step on each model, to the last step."""
    rates = {"sanitized": result.sanitized, "base": result.base, "control": result.control}
    return {model: curve_of(result, rate) for model, rate in rates.items() if rate is not None}


def curve_of(result: AttackResult, rate: Rate) -> dict[int, float]:
    """Success by step of the best attempt."""
    return {**rate.curve, result.budget.searched(): rate.asr}
