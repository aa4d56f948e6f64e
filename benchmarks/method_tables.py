"""The tables of benchmarks/methods.py, from the rows of its results file."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import harmonic_mean
from typing import Any

import numpy as np

from expunge.core.intervals import of_share, wilson

Row = Mapping[str, Any]
Runs = Mapping[str, Row]
ONE = (
    "esr1",
    "esr1_unseen",
    "esr5",
    "psr1_in",
    "psr1_out",
    "psr1_far",
    "psr1_closed",
)
"""Figures of a method's job on one object, in the table's order."""


def table(runs: Runs, methods: Sequence[str], concepts: Sequence[str]) -> str:
    """A line for each method: means over its jobs, with the 95 % interval of all their pictures, jobs being
    clusters; the last line is the base model.
    """
    lines = [
        "| method | jobs | ESR-1 | ESR-1, words no method trains on | ESR-5 | PSR-1, near, in training"
        " | near, kept out of it | far | PSR-1, closed set | PSR-1 / base | harmonic mean | seconds"
        " | U-Net evaluations |",
        "|" + "---|" * 13,
    ]
    for method in methods:
        rows = rows_of(runs, method, concepts)
        if rows:
            cost = [f"{np.mean([r[name] for r in rows]):.0f}" for name in ("seconds", "unet_evaluations")]
            cells = [str(len(rows)), *(share(rows, name) for name in ONE), *joined(rows), *cost]
            lines.append(f"| {method} | {' | '.join(cells)} |")
    rows = rows_of(runs, methods[0], concepts)  # the base model is the same under every method
    base = [share(rows, f"{name}_base") for name in ONE if name != "esr1_unseen"]
    lines.append(f"| (base model) | | {base[0]} | | {' | '.join(base[1:])} | 100.0 | | | |")
    return "\n".join(lines)


def style_table(runs: Runs, methods: Sequence[str], styles: Sequence[str]) -> str:
    """As `table`, for styles: the style judge's ESR and PSR, the objects' PSR, and whether a style's pictures
    still show their objects.
    """
    names = ("esr1", "psr1_styles", "psr1_objects", "content1")
    lines = [
        "| method | ESR-1 | PSR-1, other styles | PSR-1, objects | objects still shown | PSR-1 / base |"
        " harmonic mean | seconds |",
        "|" + "---|" * 8,
    ]
    for method in methods:
        rows = rows_of(runs, method, styles)
        if rows:
            cells = [*(pooled(rows, n) for n in names), *joined(rows)]
            lines.append(f"| {method} | {' | '.join(cells)} | {np.mean([r['seconds'] for r in rows]):.0f} |")
    rows = rows_of(runs, methods[0], styles)
    lines.append(f"| (base model) | {' | '.join(pooled(rows, f'{n}_base') for n in names)} | 100.0 | | |")
    return "\n".join(lines)


def rows_of(runs: Runs, method: str, concepts: Iterable[str]) -> list[Row]:
    """A method's rows, of those concepts that were measured."""
    return [runs[f"{method}/{c}"] for c in concepts if f"{method}/{c}" in runs]


def share(rows: Sequence[Row], name: str) -> str:
    """A share in per cent: of all pictures, and its 95 % interval, a job's pictures being a cluster."""
    known = [row[name] for row in rows if name in row]
    hits = [np.arange(of["n"]) < round(of["value"] * of["n"]) for of in known]
    clusters = [str(i) for i, of in enumerate(known) for _ in range(of["n"])]
    every = np.concatenate(hits)
    low, high = of_share(every, clusters)
    return f"{100 * every.mean():.1f} ({100 * low:.1f}–{100 * high:.1f})"


def pooled(rows: Sequence[Row], name: str) -> str:
    """A share in per cent: the mean over jobs, and the 95 % Wilson interval of all their pictures."""
    hits, n = sum(r[name]["value"] * r[name]["n"] for r in rows), sum(r[name]["n"] for r in rows)
    low, high = wilson(round(hits), n)
    return f"{100 * np.mean([r[name]['value'] for r in rows]):.1f} ({100 * low:.1f}–{100 * high:.1f})"


def joined(rows: Sequence[Row]) -> tuple[str, str]:
    """PSR-1 as a share of the base model's, and its harmonic mean with ESR-1, in per cent."""
    esr, psr, base = (np.mean([r[n]["value"] for r in rows]) for n in ("esr1", "psr1", "psr1_base"))
    kept = float(psr / base)
    return f"{100 * kept:.1f}", f"{100 * harmonic_mean([float(esr), min(kept, 1.0)]):.1f}"


def together_table(runs: Runs, methods: Sequence[str], group: str) -> str:
    """A line for each method that erased several concepts in one job; the last is the base model."""
    kept = ("psr1_in", "psr1_out", "psr1_far")
    lines = [
        "| method | ESR-1 | ESR-1, words no method trains on | PSR-1, near, in training"
        " | near, kept out of it | far | style kept | PSR-1 / base | harmonic mean | U-Net evaluations |",
        "|" + "---|" * 10,
    ]
    for method in methods:
        rows = rows_of(runs, method, [group])
        if rows:
            shares = [pooled(rows, name) for name in ("esr1", "esr1_unseen", *kept, "style_kept")]
            cells = [*shares, *joined(rows), str(rows[0]["unet_evaluations"])]
            lines.append(f"| {method} | {' | '.join(cells)} |")
    rows = rows_of(runs, methods[0], [group])  # the base model is the same under every method
    base = [pooled(rows, f"{name}_base") for name in ("esr1", *kept)]
    lines.append(f"| (base model) | {base[0]} | | {' | '.join(base[1:])} | | 100.0 | | |")
    return "\n".join(lines)
