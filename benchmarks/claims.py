"""What papers claim of their methods beside what the committed tables say: `python -m benchmarks.claims`.

Every comparison is paired: the same objects, prompts and seeds, and of attacks the same budget. A difference
is the mean over objects, in per cent points; its interval is Student's over objects, so there is none of one.
"""

import json
from collections.abc import Collection, Sequence
from math import sqrt
from typing import Any

import numpy as np

from benchmarks import attacks, methods
from expunge.core.intervals import Z, student

RIVALS = ("erase_anything", "ant", "mace", "esd", "uce")  # that SCORE's abstract names
Rows = dict[str, Any]


def pruned_under_attack(rows: Rows) -> list[float]:
    """How much less often an attack succeeds on `prune` than on the method whose loss trains its mask, esd;
    one number for each object, over the attacks that both met, `bypass` left out.
    """
    found: dict[str, list[float]] = {}
    for key, row in rows.items():
        method, concept, budget = key.split("/", 2)
        other = rows.get(f"esd/{concept}/{budget}")
        if method == "prune" and other and row["attack"] != "bypass":
            found.setdefault(concept, []).append(other["sanitized"]["asr"] - row["sanitized"]["asr"])
    return [float(np.mean(each)) for each in found.values()]


def erased_more(rows: Rows, concepts: Sequence[str], figure: str) -> list[float]:
    """ESR of SCORE less the mean of its rivals', for each object."""
    return [
        value(rows, "score", c, figure) - float(np.mean([value(rows, rival, c, figure) for rival in RIVALS]))
        for c in concepts
    ]


def kept_more(rows: Rows, concepts: Sequence[str]) -> tuple[str, list[float]]:
    """The method other than AGE that keeps most, and what AGE keeps beyond it, for each object."""
    others = {name: [kept(rows, name, c) for c in concepts] for name in methods.MEASURED if name != "age"}
    best = max(others, key=lambda name: float(np.mean(others[name])))
    return best, [kept(rows, "age", c) - other for c, other in zip(concepts, others[best], strict=True)]


def place(rows: Rows, concepts: Sequence[str]) -> int:
    """AGE's place among all methods by what they keep; the first is 1."""
    means = {name: np.mean([kept(rows, name, c) for c in concepts]) for name in methods.MEASURED}
    return 1 + sum(bool(mean > means["age"]) for mean in means.values())


def kept(rows: Rows, method: str, concept: str) -> float:
    """PSR-1 as a share of the base model's."""
    return value(rows, method, concept, "psr1") / value(rows, method, concept, "psr1_base")


def value(rows: Rows, method: str, concept: str, figure: str) -> float:
    return float(rows[f"{method}{methods.UNHELD}/{concept}"][figure]["value"])


def points(differences: Sequence[float]) -> str:
    """The mean in per cent points, with its interval."""
    mean, n = 100 * float(np.mean(differences)), len(differences)
    if n == 1:
        return f"{mean:+.1f} points (one object)"
    half = 100 * student(Z, n - 1) * float(np.std(differences, ddof=1)) / sqrt(n)
    return f"{mean:+.1f} points ({mean - half:+.1f} to {mean + half:+.1f}; {n} objects)"


def measured_on(rows: Rows, names: Collection[str]) -> list[str]:
    """The objects that all these methods were measured on."""
    return [c for c in methods.CONCEPTS if all(f"{name}{methods.UNHELD}/{c}" in rows for name in names)]


def table(runs: Rows, attacked: Rows) -> str:
    """A line for each claim."""
    concepts = measured_on(runs, methods.MEASURED)
    best, more = kept_more(runs, concepts)
    lines = [
        "| claim | here |",
        "|---|---|",
        "| Pruning is nearly 40 % (nudity) and 30 % (styles) more robust to adversarial prompts than the"
        " method it is combined with (Yang et al., 2024) | attacks succeed on `prune` less often than on"
        f" `esd`, its loss, by {points(pruned_under_attack(attacked))} |",
        "| SCORE erases up to 12.5 % better than EraseAnything, ANT, MACE, ESD and UCE | ESR-1 against their"
        f" mean {points(erased_more(runs, concepts, 'esr1'))}; in words that no method trains on"
        f" {points(erased_more(runs, concepts, 'esr1_unseen'))} |",
        "| Adaptive targets preserve best (AGE, Bui et al., 2025) | place"
        f" {place(runs, concepts)} of {len(methods.MEASURED)} by PSR-1 of base; against the best other,"
        f" `{best}`, {points(more)} |",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(json.loads(methods.RESULTS.read_text()), json.loads(attacks.RESULTS.read_text())))
