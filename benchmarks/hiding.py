"""Hide and recover with its defaults on the bundled model: `python -m benchmarks.hiding`.

For each concept: hide, then judge 32 pictures of it without the key, with the key and with 32 wrong keys, and
one picture of each of 30 others (its 15 nearest and 15 strangers). Concepts measured already, with the same
weights and spec, are read from the results file. Writes docs/hiding.png when the pictures of all of them are
at hand.
"""

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from benchmarks.methods import CACHE, HERE, SOURCE
from expunge.core.evaluation.evaluate import evaluate
from expunge.core.evaluation.judges import judges_for
from expunge.core.hiding import hide
from expunge.core.intervals import wilson
from expunge.core.models import load_model
from expunge.core.models.folders import BUNDLED
from expunge.core.specs import EvaluationSpec, HideSpec

CONCEPTS = ("church", "dog", "trumpet", "delivery truck")
RESULTS, STRIPS = HERE / "results" / "hiding.json", HERE.parent / "build" / "hiding"
JUDGING = EvaluationSpec(erased_images=32, preserved_count=30, preserved_images=1)
COLUMNS = {
    "ESR-1": "esr1",
    "ESR-5": "esr5",
    "PSR-1": "psr1",
    "PSR-1 of the base": "psr1_base",
    "RSR-1": "rsr1",
    "RSR-5": "rsr5",
    "RSR-1, wrong key": "rsr1_wrong_key",
    "RSR-5, wrong key": "rsr5_wrong_key",
}


def measure(spec: HideSpec) -> tuple[dict[str, Any], np.ndarray]:
    """One hide run, judged: its figures, and rows of pictures (base, without the key, with it; then eight
    neighbours before and after).
    """
    model = load_model(SOURCE)
    delta, keys = hide(
        model,
        spec,
        callback=lambda p: print(f"\r  {p['phase']} {p.get('step')}/{p.get('total')}   ", end="", flush=True),
    )
    digest = hashlib.sha256(delta.serialise()).hexdigest()
    judged = evaluate(
        model, spec.concepts, JUDGING, judges=judges_for(SOURCE), cache=CACHE, delta_digest=digest, keys=keys
    )
    figures: dict[str, Any] = {
        m.name: {"value": m.value, "n": m.n} for m in judged.report.metrics if m.concept is None
    }
    figures |= {
        "seconds": delta.info["seconds"],
        "unet_evaluations": delta.info["unet_evaluations"],
        "delta_sha256": digest,
    }
    first = sorted(judged.recovered)[:8]
    kept = [i for i, p in enumerate(judged.pictures) if p.role == "preserved"][:8]
    rows = [
        judged.base[first],
        judged.sanitized[first],
        np.stack([judged.recovered[i] for i in first]),
        judged.base[kept],
        judged.sanitized[kept],
    ]
    return figures, np.concatenate([np.concatenate(list(row), 1) for row in rows])


def cell(runs: list[dict[str, Any]], name: str) -> str:
    """Pooled over the runs' pictures, in per cent, with Wilson's 95 % interval."""
    hits, n = sum(r[name]["value"] * r[name]["n"] for r in runs), sum(r[name]["n"] for r in runs)
    low, high = wilson(round(hits), n)
    return f"{100 * hits / n:.1f} ({100 * low:.1f}–{100 * high:.1f})"


def picture(strips: list[Image.Image]) -> Image.Image:
    """The concepts' strips, two beside one another, each row named."""
    width, height = strips[0].size
    page = Image.new("RGB", (80 + 2 * width + 12, -(-len(strips) // 2) * (height + 12)), "white")
    pen = ImageDraw.Draw(page)
    for k, strip in enumerate(strips):
        top = k // 2 * (height + 12)
        page.paste(strip, (80 + k % 2 * (width + 12), top))
        for row, name in enumerate(
            ("base model", "hidden", "with the key", "others before", "others hidden")
        ):
            pen.text((4, top + height // 5 * row + 26), name, fill="#1f2328")
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--concepts", nargs="+", default=list(CONCEPTS))
    args = parser.parse_args()
    RESULTS.parent.mkdir(exist_ok=True)
    STRIPS.mkdir(parents=True, exist_ok=True)
    weights = b"".join(
        hashlib.sha256(f.read_bytes()).digest() for f in sorted((BUNDLED / "emoji").rglob("*.safetensors"))
    )
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for concept in args.concepts:
        spec = HideSpec(concepts=[concept])
        asked = (
            spec.model_dump_json(exclude_defaults=True)
            + spec.method.model_dump_json()
            + spec.recovery.model_dump_json()
        )
        identity = hashlib.sha256(weights + (asked + JUDGING.model_dump_json()).encode()).hexdigest()
        if known.get(concept, {}).get("identity") != identity:
            figures, strip = measure(spec)
            Image.fromarray(strip).save(STRIPS / f"{Path(concept).name}.png")
            known[concept] = figures | {"identity": identity}
            RESULTS.write_text(json.dumps(known, indent=1) + "\n")
    files = [STRIPS / f"{Path(concept).name}.png" for concept in args.concepts]
    if all(file.exists() for file in files):
        picture([Image.open(file) for file in files]).quantize(256).save(
            HERE.parent / "docs" / "hiding.png", optimize=True
        )
    print("\n| concept | " + " | ".join(COLUMNS) + " | seconds |\n" + "|---" * (len(COLUMNS) + 2) + "|")
    for name, runs in [*((c, [known[c]]) for c in args.concepts), ("all", [known[c] for c in args.concepts])]:
        seconds = f"{np.mean([r['seconds'] for r in runs]):.0f}"
        print(
            f"| {name} | " + " | ".join(cell(runs, column) for column in COLUMNS.values()) + f" | {seconds} |"
        )


if __name__ == "__main__":
    main()
