"""`python -m recipes.measure_none_of_these`: how often the committed concept judge says "none of these" of
good pictures, of kinds that it was trained on, and of kinds that nobody trained on; its closed-set figures
beside them. Writes the table of the model card, and grids of the pictures where the two disagree.
"""

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from expunge.core.evaluation.judges import Classifier, load_classifier
from expunge.core.intervals import wilson
from expunge.core.models import load_model
from recipes import data
from recipes.common import BUNDLED, STYLES, digests
from recipes.none_of_these import FALSE_REJECTIONS, guesses, made, others, read, round_trip
from recipes.strange_pictures import (
    ABSURD,
    OUT,
    Pictures,
    broken,
    clouds,
    drawn,
    half_denoised,
    kept,
    lattices,
    letters,
    sanitized,
    strokes,
    to_uint8,
)
from recipes.vae import to_tensor

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results" / "none_of_these.json"
CARD, HEADING = BUNDLED / "emoji" / "README.md", "## None of these"
ROUNDS = (2,)  # of the bundled model's drawings; 0 trained the head, 1 calibrated it
CATEGORIES = {"smileys": "Smileys & Emotion", "flags": "Flags", "signs": "Symbols"}


def rejected(judge: Classifier, pictures: Pictures) -> np.ndarray:
    found = judge.sees_none(pictures)
    assert found is not None
    return found


@torch.no_grad()
def crosswise(judge: Classifier, folds: list[Pictures]) -> np.ndarray:
    """Which pictures of each fold, that are named rightly, are rejected at the threshold that the recipe sets
    on the other folds: so none is measured by a threshold that it helped to set.
    """
    assert judge.none is not None
    classes = torch.arange(len(judge.classes))
    scores = []
    for pictures in folds:
        rows = read(judge, pictures)
        scores.append(judge.none(rows[guesses(rows, len(classes)) == classes]))
    found = []
    for i, own in enumerate(scores):
        rest = torch.cat([each for k, each in enumerate(scores) if k != i])
        found.append(own >= rest.quantile(1 - FALSE_REJECTIONS))
    return torch.cat(found).numpy()


def share(group: str, kind: str, hits: np.ndarray) -> dict[str, str | float | int]:
    low, high = wilson(int(hits.sum()), len(hits))
    interval = {"low": round(low, 4), "high": round(high, 4)}
    return {"group": group, "kind": kind, "none": round(float(hits.mean()), 4), "n": len(hits)} | interval


def grid(name: str, pictures: Pictures, columns: int = 20, rows: int = 6) -> None:
    """The first pictures, evenly spaced over all; written to the recipes' folder."""
    if not len(pictures):
        return
    chosen = pictures[np.unique(np.linspace(0, len(pictures) - 1, columns * rows).astype(int))]
    blank = np.full((-len(chosen) % columns, *chosen.shape[1:]), 255, np.uint8)
    lines = np.concatenate([chosen, blank]).reshape(-1, columns, *chosen.shape[1:])
    whole = np.concatenate([np.concatenate(list(line), 1) for line in lines])
    Image.fromarray(whole).save(OUT / f"{name}.png")


def main() -> None:
    model, judge = load_model("bundled:emoji"), load_classifier(BUNDLED / "judges" / "concept")
    names = model.vocabulary.concepts
    rows = []

    # 1. Good pictures: closed-set top-1 beside what is left of it where "none of these" counts as wrong
    real = data.load()[0].reshape(-1, data.SIZE, data.SIZE, 3)
    own = np.concatenate([kept(f"base-{k}", lambda k=k: drawn(model, k)) for k in ROUNDS])
    top1 = {}
    of_real, of_own = np.arange(len(names)).repeat(len(STYLES)), np.tile(np.arange(len(names)), len(ROUNDS))
    for kind, pictures, labels in (
        ("the bundled model's drawings", own, of_own),
        ("emoji of the vocabulary", real, of_real),
    ):
        right = judge.logits(pictures).argmax(1).numpy() == labels
        none = rejected(judge, pictures)
        rows.append(share("good", kind, none[right]))
        top1[kind] = {
            "closed": round(float(right.mean()), 4),
            "open": round(float((right & ~none).mean()), 4),
        }
        grid(f"rejected {kind}", pictures[right & none])

    # The bundled model's drawings of both rounds that trained nothing, each by a threshold set on the other
    folds = [kept(f"base-{k}", lambda k=k: drawn(model, k)) for k in (1, *ROUNDS)]
    rows.insert(1, share("good", "the same and those that calibrated it, crosswise", crosswise(judge, folds)))

    # 2. Pictures of the kinds that it was trained on, which set its temperature alone; the other emoji are of
    #    names never trained on
    x, labels = to_tensor(real), torch.from_numpy(of_real)
    strange, held = others()
    trips = to_tensor(kept("real", lambda: round_trip(model, x)))
    strange_trips = to_tensor(kept("strange", lambda: round_trip(model, strange)))
    known = {kind: to_uint8(x) for kind, x in made(trips, labels, strange_trips[held], 199)}
    known["half-denoised"] = kept("half-denoised-1", lambda: half_denoised(model, x, 360, 1))
    known["broken network"] = kept("broken-2", lambda: broken(model, 2, 2.0, 30))

    # 3. Kinds that nobody trained on
    unseen = {f"left by {m} at an absurd strength": kept(m, lambda m=m: sanitized(m)) for m in ABSURD}
    unseen |= {kind: make(300, 1) for kind, make in (("lattices", lattices), ("strokes", strokes))}
    unseen |= {kind: make(300, 1) for kind, make in (("clouds", clouds), ("letters", letters))}
    unseen |= {k: kept(f"emoji-{k}", lambda c=c: data.others((c,))[0]) for k, c in CATEGORIES.items()}
    for group, kinds in (("trained on", known), ("unseen", unseen)):
        for kind, pictures in kinds.items():
            none = rejected(judge, pictures)
            rows.append(share(group, kind, none))
            grid(f"accepted {kind}", pictures[~none])

    write(rows, top1, judge)


def write(rows: list[dict], top1: dict[str, dict[str, float]], judge: Classifier) -> None:
    assert judge.none is not None
    settings = {"threshold": judge.none.threshold, "temperature": judge.none.temperature}
    RESULTS.write_text(json.dumps({**settings, "top1": top1, "rows": rows}, indent=1) + "\n")
    print(section())
    before, _, after = CARD.read_text().partition(HEADING)
    rest = after[after.index("\n## ") :] if after else "\n" + before[before.index("## The pictures") :]
    before = before if after else before[: before.index("## The pictures")]
    CARD.write_text(f"{before}{section()}{rest}")
    digests(BUNDLED)


def section() -> str:
    """The model card's section, from the committed figures."""
    found = json.loads(RESULTS.read_text())
    lines = [
        f"| {r['group']} | {r['kind']} | {r['none']:.1%} | {r['low']:.1%} – {r['high']:.1%} | {r['n']} |"
        for r in found["rows"]
    ]
    top1 = "; ".join(f"{kind}: {t['closed']:.1%} and {t['open']:.1%}" for kind, t in found["top1"].items())
    table = "\n".join(lines)
    return f"""{HEADING}

The concept judge can say "none of these", by a head on its own features (`none_of_these.safetensors`); the classes' logits are what they were.
`python -m recipes.measure_none_of_these`: the share of pictures of which it says so. Good: those whose first guess is right. Unseen: kinds that nobody trained on.

| pictures | kind | none of these | 95 % interval | n |
|---|---|---|---|---|
{table}

Top-1, closed set and with "none of these" counted as wrong: {top1}.

Seen in the grids that the command draws: the good drawings that it rejects are a zebra in pieces, a strange stew, grapes, a ball. What it accepts is mostly like what it knows: black strokes
and letters, as in the high-contrast style; hearts; whole emoji of other things; of the wrecks, smears of one colour. It is no proof that a picture is whole: look at the pictures.
"""  # noqa: E501 (the text of a file)


if __name__ == "__main__":
    main()
