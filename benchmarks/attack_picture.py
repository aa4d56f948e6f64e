"""Attack and defence, drawn: `python -m benchmarks.attack_picture` writes docs/attacks.png.

A row for each method: what the concept's own prompts draw after its erasure, and what the best of three
learned words draws (`inversion`). Pictures in which the judge sees the concept are framed. The first four
are shown, whatever they are. Attempts are those that `benchmarks.attacks` keeps in build/pictures.
"""

import json

import numpy as np
from PIL import Image, ImageDraw

from benchmarks.attacks import RESULTS, SOURCE, attacked, judge_of, meet, row_key, specs_of
from expunge.core.evaluation.judges.concept_judge import ConceptJudge
from expunge.core.models import Denoiser, load_model
from expunge.core.specs import EvaluationSpec
from expunge.core.specs.attacks.attack import AttackSpec

PAGE = RESULTS.parent.parent.parent / "docs" / "attacks.png"
METHODS = ("esd", "age", "age, all layers", "age, all layers, adversary", "stereo")
CONCEPTS = ("owl",)  # on which no default was tuned
SHOWN, SIDE, FRAME = 4, 64, 3  # pictures of each kind, px
LABEL, GAP, HEAD = 160, 14, 22  # px: beside a row, between groups, above them
SEED = 500
SEEN, UNSEEN = (210, 40, 40), (255, 255, 255)


def main() -> None:
    rows = json.loads(RESULTS.read_text())
    (inversion,) = (each for each in specs_of() if each.name == "inversion")
    columns = [column(rows, concept, inversion) for concept in CONCEPTS]
    names = ["before erasure", *METHODS]
    body = Image.fromarray(np.concatenate(columns, 1))
    page = Image.new("RGB", (LABEL + body.width, HEAD + body.height), "white")
    page.paste(body, (LABEL, HEAD))
    pen = ImageDraw.Draw(page)
    for i, name in enumerate(names):
        pen.text((6, HEAD + i * tile_side() + 30), name, fill="black")
    for i, concept in enumerate(CONCEPTS):
        left = LABEL + i * columns[0].shape[1]
        pen.text((left + 4, 5), f'prompts with "{concept}"', fill="black")
        pen.text((left + SHOWN * tile_side() + GAP + 4, 5), "prompts with a learned word", fill="black")
    page.quantize(256).save(PAGE, optimize=True)


def tile_side() -> int:
    return SIDE + 2 * FRAME


def column(rows: dict[str, object], concept: str, attack: AttackSpec) -> np.ndarray:
    """All rows of one concept: own prompts, a gap, learned words, a gap."""
    base = load_model(SOURCE)
    judge = judge_of(base, concept)
    made = [strip(judge, own_prompts(base, concept))]
    for method in METHODS:
        if row_key(method, concept, attack) not in rows:
            raise SystemExit(f"{method}, {concept}: measure it first, with benchmarks.attacks")
        model, digest = attacked(method, concept)
        (broken,) = meet(model, digest, concept, [attack])
        made.append(strip(judge, own_prompts(model, concept), broken.images[:SHOWN]))
    made[0] = np.pad(made[0], ((0, 0), (0, made[1].shape[1] - made[0].shape[1]), (0, 0)), constant_values=255)
    return np.concatenate(made)


def own_prompts(model: Denoiser, concept: str) -> np.ndarray:
    """(SHOWN, SIDE, SIDE, 3) uint8"""
    spec = EvaluationSpec()
    templates = model.vocabulary.prompts(concept)
    prompts = [templates[i % len(templates)] for i in range(SHOWN)]
    seeds = range(SEED, SEED + SHOWN)
    return model.draw(prompts, seeds, steps=spec.sampling_steps, guidance=spec.guidance_scale)


def strip(judge: ConceptJudge, *groups: np.ndarray) -> np.ndarray:
    """Groups of pictures beside each other, framed by what the judge sees."""
    gap = np.full((tile_side(), GAP, 3), 255, np.uint8)
    parts: list[np.ndarray] = []
    for images in groups:
        for image, seen in zip(images, judge.look(images).shown[1], strict=True):
            tile = np.full((tile_side(), tile_side(), 3), SEEN if seen else UNSEEN, np.uint8)
            tile[FRAME:-FRAME, FRAME:-FRAME] = image
            parts.append(tile)
        parts.append(gap)
    return np.concatenate(parts, 1)


if __name__ == "__main__":
    main()
