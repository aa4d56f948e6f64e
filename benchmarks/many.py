"""Fifty concepts at once with UCE, and ten with AGE, on the bundled model: the table of
docs/styles-and-many-concepts.md.

`python -m benchmarks.many`. The first fifty are every fourth concept of the vocabulary, the other fifty those
behind them; half of the 20 preserved concepts are the erased ones' nearest neighbours. Rows that were
measured already are read from the results file.
"""

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

from benchmarks.methods import CACHE, EARLIER, SOURCE
from expunge.core.erasure import erase
from expunge.core.evaluation.evaluate import evaluate
from expunge.core.evaluation.judges import judges_for
from expunge.core.intervals import wilson
from expunge.core.models import load_model
from expunge.core.models.folders import BUNDLED
from expunge.core.models.vocabulary import load_vocabulary
from expunge.core.specs import AgeSpec, EraseSpec, EvaluationSpec, UceSpec

RESULTS = Path(__file__).parent / "results" / "many.json"
SCALES = (1, 4, 12, 40)  # of erase_scale, on the first fifty
JUDGING = EvaluationSpec(erased_images=2, preserved_count=20, preserved_images=2)
JUDGING_TEN = EvaluationSpec(preserved_count=24, preserved_images=2)


def rows() -> dict[str, tuple[EraseSpec, EvaluationSpec]]:
    """What is measured, by the name of its row."""
    words = load_vocabulary(BUNDLED / "emoji").concepts
    fifty, others = words[::4][:50], words[2::4][:50]

    def uce(names: list[str], **options: Any) -> tuple[EraseSpec, EvaluationSpec]:
        return EraseSpec(concepts=names, method=UceSpec(**options)), JUDGING

    return {
        "fifty, nothing held": uce(fifty),
        **{
            f"fifty, hold_vocabulary, erase_scale {s}": uce(fifty, hold_vocabulary=True, erase_scale=s)
            for s in SCALES
        },
        **{
            f"another fifty, hold_vocabulary, erase_scale {s}": uce(
                others, hold_vocabulary=True, erase_scale=s
            )
            for s in SCALES[1:3]
        },
        **{
            f"{which} fifty, hold_vocabulary, erase_scale 4, tokens all": uce(
                names, hold_vocabulary=True, erase_scale=4, tokens="all"
            )
            for which, names in (("the first", fifty), ("another", others))
        },
        "ten, AGE, 60 steps each": (
            EraseSpec(concepts=list(EARLIER), method=AgeSpec(steps=60)),
            JUDGING_TEN,
        ),
    }


def share(metric: dict[str, Any]) -> str:
    """In per cent, with its 95 % Wilson interval."""
    value, n = metric["value"], metric["n"]
    low, high = wilson(round(value * n), n)
    return f"{100 * value:.1f} ({100 * low:.1f}–{100 * high:.1f}), n = {n}"


def measure(spec: EraseSpec, judging: EvaluationSpec) -> dict[str, Any]:
    """One job, judged: shares of all pictures, not means over concepts."""
    model = load_model(SOURCE)
    delta = erase(
        model,
        spec,
        callback=lambda p: print(f"\r  {p['phase']} {p.get('step')}/{p.get('total')}   ", end="", flush=True),
    )
    digest = hashlib.sha256(delta.serialise()).hexdigest()
    report = evaluate(
        model, spec.concepts, judging, judges=judges_for(SOURCE), cache=CACHE, delta_digest=digest
    ).report
    found = {
        m.name: {"value": m.value, "n": m.n}
        for m in report.metrics
        if m.concept is None and m.name in ("esr1", "psr1", "psr1_base")
    }
    return found | {
        "seconds": round(delta.info["seconds"], 1),
        "unet_evaluations": delta.info["unet_evaluations"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fresh", action="store_true", help="measure again what was measured already")
    fresh = parser.parse_args().fresh
    known: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    print("| | ESR-1 | PSR-1 | of the base model's | U-Net evaluations |\n|---|---|---|---|---|")
    for name, (spec, judging) in rows().items():
        if fresh or name not in known:
            known[name] = measure(spec, judging)
            RESULTS.write_text(json.dumps(known, indent=1) + "\n")
        print("\r" + table_row(name, known[name]), flush=True)


def table_row(name: str, row: dict[str, Any]) -> str:
    kept = f"{100 * row['psr1']['value'] / row['psr1_base']['value']:.1f}"
    return f"| {name} | {share(row['esr1'])} | {share(row['psr1'])} | {kept} | {row['unet_evaluations']} |"


if __name__ == "__main__":
    main()
