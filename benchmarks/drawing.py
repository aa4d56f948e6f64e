"""What an evaluation's drawing and judging cost: `python -m benchmarks.drawing`.

Drawing: `core.evaluation.pictures.draw`, which also writes each picture to the cache, against a plain loop of
diffusers' pipeline with the same prompts, seeds, batch and steps, in turns in one process; whether both draw
the same bytes; and how nearly a picture is the same in another batch. Judging: the seconds of a verdict by
part, of the church that UCE erased, at the number of pictures of an evaluation before there were held-out
prompts and pairs.

Seconds are this process's own, which other work does not lengthen; on a GPU they are the clock's.
"""

import argparse
import hashlib
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from expunge.core.erasure import erase
from expunge.core.evaluation.evaluate import evaluate
from expunge.core.evaluation.judges import judges_for
from expunge.core.evaluation.pictures import Picture, draw
from expunge.core.models import Denoiser, load_model
from expunge.core.specs import Concept, EraseSpec, EvaluationSpec, UceSpec

BEFORE = EvaluationSpec(held_out_images=0, pair_images=0, until_decided=False)


def seconds(model: Denoiser) -> float:
    if model.device.type != "cuda":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def plain(model: Any, pictures: list[Picture], spec: EvaluationSpec) -> np.ndarray:
    """What one would write with diffusers alone."""
    found = []
    for start in range(0, len(pictures), spec.batch_size):
        batch = pictures[start : start + spec.batch_size]
        images = model.pipe(
            [p.prompt for p in batch],
            generator=[torch.Generator().manual_seed(p.seed) for p in batch],
            num_inference_steps=spec.sampling_steps,
            guidance_scale=spec.guidance_scale,
            output_type="np",
        ).images
        found.append((images * 255).round().astype(np.uint8))
    return np.concatenate(found)


def compare(model: Denoiser, count: int, rounds: int, spec: EvaluationSpec) -> None:
    """Throughput of both sides in turns, and how nearly their pictures agree."""
    names = model.vocabulary.concepts
    pictures = [Picture(n, "preserved", f"a {n}", i) for i, n in enumerate((names * count)[:count])]
    plain(model, pictures[: spec.batch_size], spec)  # warm
    ratios, ours, theirs = [], np.zeros(0), np.zeros(0)
    for _ in range(rounds):
        begun = seconds(model)
        theirs = plain(model, pictures, spec)
        middle = seconds(model)
        with tempfile.TemporaryDirectory() as cache:
            ours = draw(model, pictures, spec, cache=Path(cache), delta_digest=None)
        ended = seconds(model)
        ratios.append((middle - begun) / (ended - middle))
        print(f"plain {count / (middle - begun):.2f}, ours {count / (ended - middle):.2f} pictures a second")
    print(f"throughput, ours / plain: {statistics.median(ratios):.3f} (batch {spec.batch_size})")
    print(f"pictures that are the plain loop's to the last bit: {same(ours, theirs):.0%}")
    for batch in (1, 5):
        few = [p.prompt for p in pictures[:batch]], [p.seed for p in pictures[:batch]]
        how: dict[str, Any] = {"steps": spec.sampling_steps, "guidance": spec.guidance_scale}
        other = model.draw(*few, batch=batch, **how)
        apart = np.abs(other.astype(int) - ours[:batch]).max()
        alike = same(other, ours[:batch])
        print(f"batch {batch} against {spec.batch_size}: {alike:.0%} the same, at most {apart} of 255 apart")


def same(a: np.ndarray, b: np.ndarray) -> float:
    return float((a == b).all((1, 2, 3)).mean())


def verdict(model: Denoiser, spec: EvaluationSpec) -> None:
    """Seconds of a verdict by part, and once more with the pictures in the cache."""
    delta = erase(model, EraseSpec(concepts=["church"], method=UceSpec()))
    for drawn in (False, True):
        parts, last = defaultdict[str, float](float), ["", seconds(model)]

        def told(progress: Any, parts: Any = parts, last: Any = last) -> None:
            now = seconds(model)
            parts[last[0]] += now - last[1]
            last[:] = progress.get("message", last[0]), now

        if not drawn:
            cache = tempfile.mkdtemp()
        begun = seconds(model)
        judges = judges_for(model.source, str(model.device))
        parts["load judges"] = seconds(model) - begun
        last[1] = seconds(model)
        report = evaluate(
            model,
            [Concept(name="church")],
            spec,
            judges=judges,
            cache=Path(cache),
            delta_digest=hashlib.sha256(delta.serialise()).hexdigest(),
            callback=told,
        ).report
        total = seconds(model) - begun
        print(f"\nverdict {'of drawn pictures' if drawn else 'in all'}: {total:.1f} s")
        for name, value in sorted(parts.items(), key=lambda item: -item[1]):
            if value >= 0.01:
                print(f"  {value:7.2f} s  {name}")
    print(f"ESR-1 {report.value('esr1')}, PSR-1 {report.value('psr1')}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="bundled:emoji")
    parser.add_argument("--pictures", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--only", choices=["drawing", "verdict"])
    args = parser.parse_args()
    model = load_model(args.model)
    if args.only != "verdict":
        compare(model, args.pictures, args.rounds, EvaluationSpec(sampling_steps=args.steps))
    if args.only != "drawing":
        verdict(model, BEFORE.model_copy(update={"sampling_steps": args.steps}))


if __name__ == "__main__":
    main()
