"""AGE and ESD with the trajectory buffer against the authors' schedules, side by side: `python -m
benchmarks.speed`.

Both sides take as many optimiser steps at the same batch size (AGE), or each its own published or default
number (ESD); both are judged alike. What differs: fresh partial denoising for every step and two networks
there, kept trajectories and one network here.
"""

import argparse
import hashlib
import json
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.methods import CACHE, JUDGING, SOURCE
from benchmarks.two_networks import Cost, TwoNetworks, age, esd
from expunge.core.erasure import Delta, erase
from expunge.core.evaluation.evaluate import evaluate
from expunge.core.evaluation.judges import judges_for
from expunge.core.models import Denoiser, load_model
from expunge.core.specs import AgeSpec, Concept, EraseSpec, EsdSpec

RESULTS = Path(__file__).parent / "results" / "speed.json"


def judged(model: Denoiser, concept: str, cost: Cost, processor: float) -> dict[str, float]:
    """Cost and quality of whatever adapter the model wears; `processor`: seconds that this process ran,
    which other work does not lengthen.
    """
    digest = hashlib.sha256(Delta.of(model).serialise()).hexdigest()
    report = evaluate(
        model, [Concept(name=concept)], JUDGING, judges=judges_for(SOURCE), cache=CACHE, delta_digest=digest
    ).report
    figures = {n: report.value(n) or 0.0 for n in ("esr1", "psr1", "psr1_base")}
    return figures | {
        "evaluations": cost.evaluations,
        "seconds": cost.seconds,
        "processor_seconds": processor,
    }


def ours(concept: str, method: AgeSpec | EsdSpec) -> dict[str, float]:
    model, begun = load_model(SOURCE), time.process_time()
    info = erase(model, EraseSpec(concepts=[concept], method=method)).info
    return judged(
        model, concept, Cost(info["unet_evaluations"], info["seconds"]), time.process_time() - begun
    )


def authors(concept: str, method: AgeSpec | EsdSpec, args: argparse.Namespace) -> dict[str, float]:
    nets = TwoNetworks(load_model(SOURCE), load_model(SOURCE))
    begun = time.process_time()
    if isinstance(method, AgeSpec):
        cost = age(nets, concept, method, args.age_rate)
    else:
        cost = esd(nets, concept, method, args.esd_rate, iterations=200, batch=1)
    processor = time.process_time() - begun
    nets.wear()
    return judged(nets.base, concept, cost, processor)


def row(name: str, runs: list[dict[str, float]]) -> str:
    mean = {k: sum(r[k] for r in runs) / len(runs) for k in runs[0]}
    return (
        f"| {name} | {100 * mean['esr1']:.1f} | {100 * mean['psr1'] / mean['psr1_base']:.1f} |"
        f" {mean['evaluations']:.0f} | {mean['seconds']:.0f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--concepts", nargs="+", default=["church", "trumpet", "fuel pump"])
    parser.add_argument("--methods", nargs="+", default=["esd", "age"], choices=["esd", "age"])
    parser.add_argument(
        "--age-rate",
        type=float,
        default=1e-4,
        help="Adam's rate on the whole attn2 matrices (authors: 1e-5 over 1000 steps at batch 1)",
    )
    parser.add_argument(
        "--esd-rate", type=float, default=5e-5, help="Adam's rate on the whole attn2 matrices (authors: 5e-5)"
    )
    args = parser.parse_args()
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    print("| schedule | ESR-1 | PSR-1 / base | U-Net evaluations | seconds |\n|---|---|---|---|---|")
    for name in args.methods:
        method = AgeSpec() if name == "age" else EsdSpec()
        pairs = list[tuple[dict[str, float], dict[str, float]]]()
        for concept in args.concepts:
            pairs.append((ours(concept, method), authors(concept, method, args)))
            results.setdefault(name, {})[concept] = dict(zip(("ours", "authors"), pairs[-1], strict=True))
            RESULTS.write_text(json.dumps(results, indent=1) + "\n")
            print(f"  {name} without {concept}: {results[name][concept]}", file=sys.stderr, flush=True)
        print(row(f"{name}, trajectory buffer", [a for a, _ in pairs]))
        print(row(f"{name}, authors' schedule", [b for _, b in pairs]))
        fewer, faster, less = (
            sum(b[k] for _, b in pairs) / sum(a[k] for a, _ in pairs)
            for k in ("evaluations", "seconds", "processor_seconds")
        )
        print(
            f"{name}: {fewer:.1f} times fewer evaluations, {faster:.1f} times less wall time, {less:.1f}"
            " times less processor time",
            flush=True,
        )


if __name__ == "__main__":
    main()
