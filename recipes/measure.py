"""`make model-card`: judge what the bundled model draws, through the code a customer's model is judged with;
write card and grids.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from expunge.core.evaluation.judges import load_classifier
from expunge.core.intervals import wilson
from expunge.core.models import load_model
from expunge.core.models.vocabulary import article
from recipes.common import BUNDLED, STYLES, digests
from recipes.measure_none_of_these import section
from recipes.text_encoder import neighbours

CARD = BUNDLED / "emoji" / "README.md"
GRID = Path(__file__).parents[1] / "docs" / "bundled-model.png"


def row(name: str, hits: np.ndarray) -> dict[str, float | int | str]:
    low, high = wilson(int(hits.sum()), len(hits))
    return {"name": name, "value": float(hits.mean()), "n": len(hits), "low": low, "high": high}


def top(logits: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    return (np.argsort(-logits, 1)[:, :k] == labels[:, None]).any(1)


def main() -> None:
    model = load_model("bundled:emoji")
    names, styles = model.vocabulary.concepts, list(STYLES)
    concept_judge, style_judge = (
        load_classifier(BUNDLED / "judges" / "concept"),
        load_classifier(BUNDLED / "judges" / "style"),
    )
    plain = [(c, None, 1) for c in range(len(names))]
    styled = [(c, (c + k) % len(styles), 10 + k) for c in range(len(names)) for k in (0, 2)]
    chosen = np.linspace(0, len(names) - 1, 24).astype(int)
    shown = [(int(c), s, 20) for s in range(len(styles)) for c in chosen]  # for the grid; judged too
    styled += shown
    asked = plain + styled
    prompts = [
        article(f"a photo of a {names[c]}") + (f" in {styles[s]} style" if s is not None else "")
        for c, s, _ in asked
    ]

    def report(progress: dict) -> None:
        print(f"\r{progress['step']}/{progress['total']}", end="", file=sys.stderr, flush=True)

    pictures = model.draw(prompts, [seed for *_, seed in asked], callback=report)
    labels = np.array([c for c, *_ in asked])
    scores = concept_judge.logits(pictures).numpy()
    style_scores = style_judge.logits(pictures[len(plain) :]).numpy()
    pooled = []
    for i in range(0, len(names), 64):
        ids = model.pipe.tokenizer(
            names[i : i + 64], padding="max_length", truncation=True, return_tensors="pt"
        ).input_ids
        with torch.no_grad():
            pooled.append(model.pipe.text_encoder(ids).pooler_output)
    share, nearest = neighbours(torch.cat(pooled), [model.vocabulary.subcategory[n] for n in names])
    rows = [
        row("concept top-1", top(scores, labels, 1)),
        row("concept top-5", top(scores, labels, 5)),
        row("concept top-1, no style named", top(scores, labels, 1)[: len(plain)]),
        row("style top-1", top(style_scores, np.array([s for _, s, _ in styled]), 1)),
    ]
    table = "| figure | value | 95 % interval | n |\n|---|---|---|---|\n"
    table += "".join(
        f"| {r['name']} | {r['value']:.1%} | {r['low']:.1%} – {r['high']:.1%} | {r['n']} |\n" for r in rows
    )
    table += (
        f"| concepts with two of their five nearest in their own Unicode subcategory | {share:.1%} | |"
        f" {len(names)} |\n"
    )
    print(f"\n{table}")
    print("church lies by", ", ".join(names[j] for j in nearest[names.index("church")]))
    wrong = np.flatnonzero(~top(scores, labels, 1))
    print("missed:", json.dumps(sorted({prompts[i] for i in wrong})[:60]))

    write_card(table)
    grid = pictures[-len(shown) :].reshape(len(styles), len(chosen), *pictures.shape[1:])
    GRID.parent.mkdir(exist_ok=True)
    Image.fromarray(np.concatenate([np.concatenate(list(line), 1) for line in grid])).save(GRID)
    Image.fromarray(
        np.concatenate([np.concatenate(list(pictures[i : i + 22]), 1) for i in range(0, len(names), 22)])
    ).save(GRID.with_name("bundled-model-concepts.png"))
    digests(BUNDLED)


def write_card(table: str) -> None:
    credits = "\n".join(
        f"| {style} | {artist} | `{package}` | {licence} |"
        for style, (artist, package, licence) in STYLES.items()
    )
    CARD.write_text(f"""---
license: cc-by-4.0
library_name: diffusers
tags: [text-to-image, stable-diffusion, diffusers, emoji]
---
# The bundled emoji model

A small, real Stable Diffusion: CLIP tokenizer and `CLIPTextModel` (128 wide), `AutoencoderKL` (64 px to 16x16x4), `UNet2DConditionModel`, DDIM.
It ships with Expunge so that erasing, attacking and judging can be tried and tested anywhere. `StableDiffusionPipeline.from_pretrained` loads it
with no custom code. It draws emoji, and nothing else: it is a test bench, not an artist.

Prompts: `church`, `a church`, `a photo / picture of a church`, `an emoji of a church`, each also with `in {{style}} style`. Unknown words do no harm.

## Measured

`make model-card`: 25 DDIM steps, guidance 7.5, every concept, judged by the classifiers in `../judges` (trained apart, on the pictures, never on this model's).

{table}
{section()}
## The pictures, and their licences

| style | artist | package | licence |
|---|---|---|---|
{credits}

The Twemoji pictures ask for attribution (CC-BY 4.0, Copyright Twitter, Inc and other contributors); so does, therefore, this model.
The text encoder was distilled from all-MiniLM-L6-v2 (Apache-2.0), which is not shipped. `python -m recipes` rebuilds everything.

The committed U-Net was trained in legs, resumed from checkpoints: four at batch 32 with cosine schedules laid for 7000, 5000, 6500 and 5600 steps, one laid for
12000 steps (to step 5750), and the last, to step 10500, with the recipe's constants as they stand (batch 48, the style named in 85 % of the prompts). The recipe's single
schedule has not been run straight through, and would give other, though comparable, weights.
""")  # noqa: E501 (the text of a file)


if __name__ == "__main__":
    main()
