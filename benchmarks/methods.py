"""Every method with its defaults on the bundled model, side by side: `make bench-methods`.

For each concept and method: erase, then judge 16 pictures of the erased concept and one of each of 30 others
(its 15 nearest and 15 strangers). `--styles` erases styles instead, each judged by 16 pictures, as many of
every other style, and one of each of some 27 objects; the table is one of its own. `--together 5` erases five
concepts in one job, as the papers' tables do, and judges two pictures of each of 40 others, half of them
neighbours. `--unheld` keeps every other one of the nearest 15 out of every method's search, hold and retain
sets, and reports PSR-1 of both halves. Runs that were measured already, with the same weights and spec, are
read from the results file.
"""

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from benchmarks.results_file import add
from expunge.core.erasure import erase
from expunge.core.evaluation.evaluate import evaluate
from expunge.core.evaluation.judges import judges_for
from expunge.core.evaluation.pictures import preserved_concepts
from expunge.core.intervals import wilson
from expunge.core.models import Denoiser, load_model
from expunge.core.models.folders import BUNDLED
from expunge.core.models.vocabulary import load_vocabulary
from expunge.core.specs import METHODS, EraseSpec, EvaluationSpec, UceSpec

HERE = Path(__file__).parent
RESULTS, CACHE, STRIPS = (
    HERE / "results" / "methods.json",
    HERE.parent / "build" / "pictures",
    HERE.parent / "build" / "strips",
)
CONCEPTS = (
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
VARIANTS = {"uce, tokens: all": UceSpec(tokens="all")}  # rows beside the methods' defaults
# What a method's defaults were tried on
CHOSEN_ON = {"age": ("church", "dog", "delivery truck"), "ca": ("church", "dog", "trumpet", "saw")}
ELSEWHERE = ("church", "dog", "trumpet")  # and those of all others
JUDGING = EvaluationSpec(erased_images=16, preserved_count=30, preserved_images=1)
TOGETHER = EvaluationSpec(erased_images=16, preserved_count=40, preserved_images=2)
SOURCE = "bundled:emoji"
UNHELD = ", unheld"
LABEL = 100  # px beside a picture's rows, for the methods' names


def judging(spec: EraseSpec) -> EvaluationSpec:
    """How a run is judged: of several concepts together there are few runs, so more pictures each."""
    return JUDGING if len(spec.concepts) == 1 else TOGETHER


def asked(spec: EraseSpec, unheld: bool) -> str:
    """All that decides a run's figures; fields left at null are not named, so that a new optional field makes
    no result stale.
    """
    parts = [
        [c.name for c in spec.concepts],
        spec.method.model_dump(exclude_none=True, exclude={"debias"}),
        spec.seed,
        judging(spec).model_dump(exclude_none=True, exclude={"thresholds", "batch_size"}),
    ]
    return json.dumps([*parts, "unheld"] if unheld else parts)


def judged_names(model: Denoiser, spec: EraseSpec) -> tuple[list[str], list[str]]:
    """The preserved concepts: the very nearest and strangers, half and half; and the nearest alone. Of a
    style these are the other styles.
    """
    names = preserved_concepts(model, spec.concepts, [], judging(spec), reach=None)
    is_style = model.vocabulary.style
    if any(is_style(c.name) is not None for c in spec.concepts):
        return names, [name for name in names if is_style(name) is not None]
    return names, names[: len(names) // 2]


def measure(spec: EraseSpec, unheld: bool) -> tuple[dict[str, Any], list[np.ndarray]]:
    """One erasure, judged: its figures, and a strip of pictures (erased, then four neighbours and two
    strangers).
    """
    model = load_model(SOURCE)
    whole = model.vocabulary
    names, near = judged_names(model, spec)
    if unheld:
        model.vocabulary = whole.without(near[1::2])
    delta = erase(
        model,
        spec,
        callback=lambda p: print(f"\r  {p['phase']} {p.get('step')}/{p.get('total')}   ", end="", flush=True),
    )
    model.vocabulary = whole
    digest = hashlib.sha256(delta.serialise()).hexdigest()
    judged = evaluate(
        model,
        spec.concepts,
        judging(spec).model_copy(update={"preserved_concepts": names}),
        judges=judges_for(SOURCE),
        cache=CACHE,
        delta_digest=digest,
        held=delta.info["held"],
    )
    report = judged.report
    figures: dict[str, Any] = {
        m.name: {"value": m.value, "n": m.n} for m in report.metrics if m.concept is None
    }
    for name, group in (("psr1_in", near[::2]), ("psr1_out", near[1::2])) if unheld else ():
        of = [m for m in report.metrics if m.name == "psr1" and m.concept in group]
        n = sum(m.n for m in of)
        figures[name] = {"value": sum(m.value * m.n for m in of) / n, "n": n}
    erased = [c.name for c in spec.concepts]
    for name in {m.name for m in report.metrics if m.concept in erased}:
        of = [m for m in report.metrics if m.name == name and m.concept in erased and m.value is not None]
        figures[f"{name}_erased"] = {
            "value": float(np.mean([m.value for m in of])) if of else None,
            "n": sum(m.n or 0 for m in of),
        }
    figures |= {
        "seconds": delta.info["seconds"],
        "unet_evaluations": delta.info["unet_evaluations"],
        "delta_sha256": digest,
    }
    first = {p.concept: i for i, p in reversed(list(enumerate(judged.pictures)))}
    shown = [first[c] for c in (*erased, *report.preserved[:4], *report.preserved[-2:])]
    return figures, [judged.base[shown], judged.sanitized[shown]]


def cell(rows: list[dict[str, Any]], name: str) -> str:
    """A share in per cent: the mean over concepts, and the 95 % Wilson interval of all their pictures."""
    hits, n = sum(r[name]["value"] * r[name]["n"] for r in rows), sum(r[name]["n"] for r in rows)
    low, high = wilson(round(hits), n)
    return f"{100 * np.mean([r[name]['value'] for r in rows]):.1f} ({100 * low:.1f}–{100 * high:.1f})"


def table(runs: dict[str, dict[str, Any]], methods: list[str], concepts: list[str]) -> str:
    """Means over concepts, with the 95 % Wilson interval of all pictures pooled."""
    lines = [
        (
            "| method | jobs | ESR-1 | ESR-5 | PSR-1 | PSR-1 / base | PSR-5 | harmonic mean | CLIP δ erased |"
            " seconds | U-Net evaluations |"
        ),
        "|" + "---|" * 11,
    ]

    for method in methods:
        rows = [runs[f"{method}/{c}"] for c in concepts if f"{method}/{c}" in runs]
        if not rows:
            continue
        kept = np.mean([r["psr1"]["value"] for r in rows]) / np.mean([r["psr1_base"]["value"] for r in rows])
        erased = np.mean([r["esr1"]["value"] for r in rows])
        harmonic = 2 * erased * min(kept, 1) / (erased + min(kept, 1))
        delta = np.mean([r["clip_delta_erased"]["value"] for r in rows])
        cells = [
            str(len(rows)),
            cell(rows, "esr1"),
            cell(rows, "esr5"),
            cell(rows, "psr1"),
            f"{100 * kept:.1f}",
            cell(rows, "psr5"),
            f"{100 * harmonic:.1f}",
            f"{delta:.1f}",
        ]
        lines.append(
            f"| {method} | {' | '.join(cells)} | {np.mean([r['seconds'] for r in rows]):.0f} |"
            f" {np.mean([r['unet_evaluations'] for r in rows]):.0f} |"
        )
    rows = [runs[f"{methods[0]}/{c}"] for c in concepts]  # the base model is the same under every method
    base = [cell(rows, n) for n in ("esr1_base", "esr5_base", "psr1_base")]
    lines.append(f"| (base model) | | {' | '.join(base)} | 100.0 | {cell(rows, 'psr5_base')} | | | | |")
    return "\n".join(lines)


def chosen_table(runs: dict[str, dict[str, Any]], methods: list[str], concepts: list[str]) -> str:
    """ESR-1 and PSR-1 / base of the concepts that a method's defaults were chosen on, and of those that they
    were not.
    """
    lines = [
        "| method | chosen on | ESR-1: chosen on | others | PSR-1 / base: chosen on | others |",
        "|" + "---|" * 6,
    ]
    for method in methods:
        chosen = CHOSEN_ON.get(method, ELSEWHERE)
        cells = list[str]()
        for figure, by in (("esr1", None), ("psr1", "psr1_base")):
            for group in (chosen, [c for c in concepts if c not in chosen]):
                rows = [runs[f"{method}/{c}"] for c in group if f"{method}/{c}" in runs]
                share = np.mean([r[figure]["value"] for r in rows]) / (
                    np.mean([r[by]["value"] for r in rows]) if by else 1
                )
                cells.append(f"{100 * share:.1f}")
        lines.append(f"| {method} | {', '.join(chosen)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def unheld_table(runs: dict[str, dict[str, Any]], methods: list[str], concepts: list[str]) -> str:
    """PSR-1 of the neighbours that a method might see while training, and of those kept out of it."""
    lines = ["| method | ESR-1 | PSR-1, neighbours in training | kept out of it |", "|" + "---|" * 4]
    for method in methods:
        rows = [runs[f"{method}/{c}"] for c in concepts if f"{method}/{c}" in runs]
        if rows:
            cells = (cell(rows, name) for name in ("esr1", "psr1_in", "psr1_out"))
            lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def style_table(runs: dict[str, dict[str, Any]], methods: list[str], styles: list[str]) -> str:
    """As `table`, for styles: the style judge's ESR and PSR, the objects' PSR, and whether a style's pictures
    still show their objects.
    """
    names = ("esr1", "psr1_styles", "psr1_objects", "content1")
    lines = [
        (
            "| method | ESR-1 | PSR-1, other styles | PSR-1, objects | objects still shown | PSR-1 / base |"
            " harmonic mean | seconds |"
        ),
        "|" + "---|" * 8,
    ]
    for method in methods:
        rows = [runs[f"{method}/{s}"] for s in styles if f"{method}/{s}" in runs]
        if rows:
            kept = np.mean([r["psr1"]["value"] for r in rows]) / np.mean(
                [r["psr1_base"]["value"] for r in rows]
            )
            erased = np.mean([r["esr1"]["value"] for r in rows])
            harmonic = 2 * erased * min(kept, 1) / (erased + min(kept, 1))
            cells = [
                *(cell(rows, n) for n in names),
                f"{100 * kept:.1f}",
                f"{100 * harmonic:.1f}",
                f"{np.mean([r['seconds'] for r in rows]):.0f}",
            ]
            lines.append(f"| {method} | {' | '.join(cells)} |")
    rows = [runs[f"{methods[0]}/{s}"] for s in styles]
    lines.append(f"| (base model) | {' | '.join(cell(rows, f'{n}_base') for n in names)} | 100.0 | | |")
    return "\n".join(lines)


def batched(names: list[str], size: int) -> list[list[str]]:
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
    parser.add_argument(
        "--unheld", action="store_true", help="train without every other one of the nearest judged concepts"
    )
    parser.add_argument("--fresh", action="store_true", help="measure again what was measured already")
    args = parser.parse_args()
    of_styles = args.styles is not None
    if of_styles:
        args.concepts = [f"in {s} style" for s in args.styles or load_vocabulary(BUNDLED / "emoji").styles]
    groups = {" + ".join(names): names for names in batched(args.concepts, args.together)}
    args.concepts = list(groups)
    RESULTS.parent.mkdir(exist_ok=True)
    weights = b"".join(
        hashlib.sha256(f.read_bytes()).digest() for f in sorted((BUNDLED / "emoji").rglob("*.safetensors"))
    )
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    strips: dict[str, np.ndarray] = {}
    runs: dict[str, dict[str, Any]] = {}
    for concept in args.concepts:
        for method in args.methods:
            spec = EraseSpec(concepts=groups[concept], method=VARIANTS.get(method, method))
            identity = hashlib.sha256(weights + asked(spec, args.unheld).encode()).hexdigest()
            key = f"{method}{UNHELD if args.unheld else ''}/{concept}"
            drawn = STRIPS / f"{identity}.npy"
            if args.fresh or known.get(key, {}).get("identity") != identity:
                figures, strip = measure(spec, args.unheld)
                STRIPS.mkdir(parents=True, exist_ok=True)
                np.save(drawn, np.stack(strip))
                known = add(RESULTS, key, figures | {"identity": identity})
                print(
                    f"\r{key}: ESR-1 {figures['esr1']['value']:.3f}, PSR-1 {figures['psr1']['value']:.3f} of"
                    f" {figures['psr1_base']['value']:.3f}, {figures['seconds']:.0f} s",
                    flush=True,
                )
            runs[key] = known[key]
            if drawn.exists():
                strips[f"base/{concept}"], strips[key] = np.load(drawn)
    if args.unheld:
        args.methods = [f"{name}{UNHELD}" for name in args.methods]
        print("\n" + unheld_table(runs, args.methods, args.concepts))
    print("\n" + (style_table if of_styles else table)(runs, args.methods, args.concepts))
    if args.unheld:
        return
    if args.concepts == list(CONCEPTS):
        print("\n" + chosen_table(runs, args.methods, args.concepts))
    shown = [c for c in args.concepts if all(f"{m}/{c}" in strips for m in args.methods)][:3]
    if shown:
        name = "styles.png" if of_styles else "methods.png" if args.together == 1 else "together.png"
        picture(strips, shown, args.methods).quantize(256).save(HERE.parent / "docs" / name, optimize=True)


if __name__ == "__main__":
    main()
