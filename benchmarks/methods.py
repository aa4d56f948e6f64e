"""Every method with its defaults on the bundled model, side by side: `make bench-methods`.

For each concept and method: erase, while every other one of the 15 nearest concepts is kept out of the
method's search, hold and retain sets; then judge 16 pictures of the erased concept by its templates, as many
in words that no method trains on, and one of each of 30 others (its 15 nearest and 15 strangers). No default
was tuned on one of these concepts. `--together 5` erases five concepts in one job, as the papers' tables do,
and judges two pictures of each of 40 others. `--styles` erases styles instead, each judged by 16 pictures, as
many of every other style, and one of each of some 27 objects; a style has three others, of which none is kept
out. Runs that were measured already, with the same weights and spec, are read from the results file, deltas
from build/deltas.
"""

import argparse
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from benchmarks.deltas import put_on
from benchmarks.method_tables import style_table, table
from benchmarks.results_file import add
from expunge.core.evaluation.evaluate import evaluate
from expunge.core.evaluation.judges import judges_for
from expunge.core.evaluation.pictures import preserved_concepts
from expunge.core.evaluation.report import Report
from expunge.core.models import Denoiser, load_model
from expunge.core.models.folders import BUNDLED
from expunge.core.models.vocabulary import load_vocabulary
from expunge.core.progress import Progress
from expunge.core.specs import METHODS, EraseSpec, EvaluationSpec, UceSpec

HERE = Path(__file__).parent
RESULTS, CACHE, STRIPS = (
    HERE / "results" / "methods.json",
    HERE.parent / "build" / "pictures",
    HERE.parent / "build" / "strips",
)
TUNED_ON = ("church", "dog", "delivery truck", "trumpet", "saw")  # and the noto style: no table's objects
CONCEPTS = (
    "fish",
    "owl",
    "teapot",
    "fire engine",
    "parachute",
    "radio",
    "fuel pump",
    "guitar",
    "umbrella",
    "rose",
)
EARLIER = (
    "church",
    "delivery truck",
    "trumpet",
    "saw",
    "fish",
    "dog",
    "radio",
    "fuel pump",
    "parachute",
    "teapot",
)
"""The objects of earlier tables, and of many.py."""
FIVE = ("fish", "owl", "teapot", "fire engine", "parachute")  # erased in one job: *five at once*
AWAITED = ("erase_flow", "stereo")  # the tables were measured before these came
MEASURED = tuple(name for name in METHODS if name not in AWAITED)
VARIANTS = {"uce, tokens: all": UceSpec(tokens="all")}  # rows beside the methods' defaults
JUDGING = EvaluationSpec(
    erased_images=16, held_out_images=16, preserved_count=30, preserved_images=1, pair_images=0
)
TOGETHER = EvaluationSpec(
    erased_images=16, held_out_images=8, preserved_count=40, preserved_images=2, pair_images=0
)
SOURCE = "bundled:emoji"
UNHELD = ", unheld"
LABEL = 100  # px beside a picture's rows, for the methods' names


def judging(spec: EraseSpec) -> EvaluationSpec:
    """How a run is judged: of several concepts together there are few runs, so more pictures each."""
    return JUDGING if len(spec.concepts) == 1 else TOGETHER


def asked(spec: EraseSpec) -> str:
    """All that decides a run's figures; fields left at null are not named, so that a new optional field makes
    no result stale.
    """
    parts = [
        [c.name for c in spec.concepts],
        spec.method.model_dump(exclude_none=True, exclude={"debias"}),
        spec.seed,
        judging(spec).model_dump(exclude_none=True, exclude={"thresholds", "batch_size"}),
    ]
    return json.dumps(parts)


def judged_names(model: Denoiser, spec: EraseSpec) -> tuple[list[str], list[str]]:
    """The preserved concepts: the very nearest and strangers, half and half; and the nearest objects alone,
    nearest first. Of a style these are none.
    """
    names = preserved_concepts(model, spec.concepts, [], judging(spec), reach=None)
    if any(model.vocabulary.style(c.name) is not None for c in spec.concepts):
        return names, []
    return names, names[: len(names) // 2]


def measure(spec: EraseSpec) -> tuple[dict[str, Any], list[np.ndarray]]:
    """One erasure, judged: its figures, and a strip of pictures (erased, then four neighbours and two
    strangers).
    """
    model = load_model(SOURCE)
    names, near = judged_names(model, spec)
    digest, info = put_on(model, spec, told, without=near[1::2])
    judged = evaluate(
        model,
        spec.concepts,
        judging(spec).model_copy(update={"preserved_concepts": names}),
        judges=judges_for(SOURCE),
        cache=CACHE,
        delta_digest=digest,
        held=info["held"],
    )
    report = judged.report
    figures: dict[str, Any] = {
        m.name: {"value": m.value, "n": m.n} for m in report.metrics if m.concept is None
    }
    for suffix in ("", "_base") if near else ():
        figures[f"psr1_in{suffix}"] = kept(report, near[::2], suffix)
        figures[f"psr1_out{suffix}"] = kept(report, near[1::2], suffix)
    erased = [c.name for c in spec.concepts]
    deltas = [m for m in report.metrics if m.name == "clip_delta" and m.concept in erased]
    figures["clip_delta_erased"] = {
        "value": float(np.mean([m.value for m in deltas])),
        "n": sum(m.n for m in deltas),
    }
    figures |= {
        "seconds": info["seconds"],
        "unet_evaluations": info["unet_evaluations"],
        "delta_sha256": digest,
    }
    first = {p.concept: i for i, p in reversed(list(enumerate(judged.pictures)))}
    shown = [first[c] for c in (*erased, *report.preserved[:4], *report.preserved[-2:])]
    return figures, [judged.base[shown], judged.sanitized[shown]]


def kept(report: Report, names: Sequence[str], suffix: str) -> dict[str, float]:
    """PSR-1 of these concepts together, by one of the models ("", "_base")."""
    of = [m for m in report.metrics if m.name == f"psr1{suffix}" and m.concept in names]
    n = sum(m.n for m in of)
    return {"value": sum(m.value * m.n for m in of) / n, "n": n}


def told(progress: Progress) -> None:
    """A line on the terminal."""
    where = f"{progress['phase']} {progress.get('step')}/{progress.get('total')}"
    print(f"\r  {where:40}", end="", flush=True)


def batched(names: Sequence[str], size: int) -> list[Sequence[str]]:
    return [names[i : i + size] for i in range(0, len(names), size)]


def picture(strips: dict[str, np.ndarray], concepts: list[str], methods: list[str]) -> Image.Image:
    """Rows: base and each method; columns: for each concept the erased one, then its neighbours and
    strangers.
    """
    names = ["base", *methods]
    rows = [
        np.concatenate(
            [np.concatenate([*strips[f"{n}/{c}"], np.full((64, 12, 3), 255, np.uint8)], 1) for c in concepts],
            1,
        )
        for n in names
    ]
    body = Image.fromarray(np.concatenate(rows))
    page = Image.new("RGB", (body.width + LABEL, body.height + 20), "white")
    page.paste(body, (LABEL, 20))
    pen = ImageDraw.Draw(page)
    for i, name in enumerate(names):
        pen.text((6, 20 + 64 * i + 26), name, fill="black")
    for i, concept in enumerate(concepts):
        pen.text((LABEL + 2 + i * body.width // len(concepts), 4), f"without {concept}", fill="black")
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="+", default=[*METHODS, *VARIANTS], choices=[*METHODS, *VARIANTS])
    parser.add_argument("--concepts", nargs="+", default=list(CONCEPTS))
    parser.add_argument(
        "--styles", nargs="*", help="erase styles instead: those named, or every style of the bundled model"
    )
    parser.add_argument("--together", type=int, default=1, metavar="N", help="concepts erased in one job")
    parser.add_argument("--fresh", action="store_true", help="measure again what was measured already")
    args = parser.parse_args()
    of_styles = args.styles is not None
    if of_styles:
        args.concepts = [f"in {s} style" for s in args.styles or load_vocabulary(BUNDLED / "emoji").styles]
    groups = {" + ".join(names): names for names in batched(args.concepts, args.together)}
    concepts, suffix = list(groups), "" if of_styles else UNHELD
    RESULTS.parent.mkdir(exist_ok=True)
    weights = b"".join(
        hashlib.sha256(f.read_bytes()).digest() for f in sorted((BUNDLED / "emoji").rglob("*.safetensors"))
    )
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    strips: dict[str, np.ndarray] = {}
    runs: dict[str, dict[str, Any]] = {}
    for concept in concepts:
        for method in args.methods:
            spec = EraseSpec(concepts=groups[concept], method=VARIANTS.get(method, method))
            identity = hashlib.sha256(weights + asked(spec).encode()).hexdigest()
            key = f"{method}{suffix}/{concept}"
            drawn = STRIPS / f"{identity}.npy"
            if args.fresh or known.get(key, {}).get("identity") != identity:
                figures, strip = measure(spec)
                STRIPS.mkdir(parents=True, exist_ok=True)
                np.save(drawn, np.stack(strip))
                known = add(RESULTS, key, figures | {"identity": identity})
                print(
                    f"\r{key}: ESR-1 {figures['esr1']['value']:.3f}, PSR-1 {figures['psr1']['value']:.3f} of"
                    f" {figures['psr1_base']['value']:.3f}, {figures['seconds']:.0f} s",
                    flush=True,
                )
            runs[f"{method}/{concept}"] = known[key]
            if drawn.exists():
                strips[f"base/{concept}"], strips[f"{method}/{concept}"] = np.load(drawn)
    print("\n" + (style_table if of_styles else table)(runs, args.methods, concepts))
    shown = [c for c in concepts if all(f"{m}/{c}" in strips for m in args.methods)][:3]
    if shown and set(args.methods) >= set(METHODS):  # no picture of some of them
        name = "styles.png" if of_styles else "methods.png" if args.together == 1 else "together.png"
        picture(strips, shown, args.methods).quantize(256).save(HERE.parent / "docs" / name, optimize=True)


if __name__ == "__main__":
    main()
