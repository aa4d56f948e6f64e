"""ESR-k and PSR-k: is the concept among the classifier's first k guesses?

ESR-k is the share of an erased concept's pictures whose label is NOT in the top k; PSR-k is the share of a
preserved concept's pictures whose label is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from expunge.core.evaluation.evidence import Evidence, Rows
from expunge.core.evaluation.judges import Classifier, Images, Judges
from expunge.core.models import Vocabulary
from expunge.core.specs import same

CONVENTIONS = [
    (
        "esr-k: the share of an erased concept's pictures whose label is not in the classifier's top k."
        " psr-k: the share of a preserved concept's pictures whose label is. A concept for which the"
        " classifier has no class is left out and listed under not_available; so is the top 5 of a classifier"
        " with five classes or fewer. concept null: all pictures of all such concepts. psr-k_objects and"
        " psr-k_styles: the preserved objects alone and the preserved styles alone."
    ),
    (
        "edit-k: the share of an edited concept's pictures (a concept with a target) whose top k holds the"
        " target's label."
    ),
    (
        "A concept given by images is drawn by the word learned from them. Its label is the class that the"
        " classifier sees in most of those images; esr1_base is then the share of the base model's pictures"
        " in which the word does not show that class."
    ),
    "…_base: the same prompts and seeds, drawn by the base model. psr1_ratio: psr1 / psr1_base.",
]

KS = (1, 5)


@dataclass(frozen=True)
class Label:
    """The class that stands for a concept, and the classifier that has it."""

    judge: Classifier
    index: int


def label_of(names: list[str], judges: Judges, vocabulary: Vocabulary) -> Label | None:
    """The class of a concept under any of its names; of a style, from the style judge. None where no class
    has one of these names: it is never guessed.
    """
    for name in names:
        style = vocabulary.style(name)
        judge = judges.concept if style is None else judges.style
        if judge is None:
            continue
        for index, class_ in enumerate(judge.classes):
            if same(class_, style or name):
                return Label(judge, index)
    return None


def in_top_k(logits: Tensor, index: int, k: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Whether class `index` is among the k largest logits of each row, (N,)."""
    return (logits.topk(min(k, logits.shape[1])).indices == index).any(1).numpy()


def hits(label: Label, images: Images) -> dict[int, np.ndarray[Any, np.dtype[np.bool_]]]:
    """For each k, whether each picture's top k holds the label, (N,). A k is left out where the judge has k
    classes or fewer, since its top k would hold them all.
    """
    logits = label.judge.logits(images)
    return {k: in_top_k(logits, label.index, k) for k in KS if k < len(label.judge.classes)}


def measure(seen: Evidence) -> None:
    """ESR-k, edit-k and PSR-k of both models, by concept and over all."""
    shows = seen.model.shows
    erased = [(c.name, [c.name, *c.synonyms, *shows(c.name)]) for c in seen.erased if not c.attributes]
    edited = [(c.name, [c.target, *shows(c.target)]) for c in seen.erased if c.target]
    preserved = [(name, [name]) for name in seen.preserved]
    measure_rate(seen, "esr", erased)
    measure_rate(seen, "edit", edited)
    pooled = measure_rate(seen, "psr", preserved)
    if pooled:
        seen.sheet.ratio("psr1_ratio", np.concatenate(pooled["psr1"]), np.concatenate(pooled["psr1_base"]))


def measure_rate(
    seen: Evidence, kind: str, concepts: Sequence[tuple[str, list[str]]]
) -> dict[str, list[Rows]]:
    """One success rate of both models, of each concept by the names that count as it; and what was pooled."""
    is_style, sheet = seen.model.vocabulary.style, seen.sheet
    mixed = kind == "psr" and len({is_style(name) is None for name, _ in concepts}) == 2
    pooled: dict[str, list[Rows]] = {}
    for concept, names in concepts:
        label = label_of(names, seen.judges, seen.model.vocabulary)
        if label is None:
            why = seen.judges.missing.get("concept", f"no judge has a class for '{names[0]}'")
            sheet.lacks(f"{kind}1", why, concept)
            continue
        classes = len(label.judge.classes)
        if classes <= 5:
            why = f"the judge knows {classes} classes: its top 5 holds all of them"
            sheet.lacks(f"{kind}5", why, concept)
        sort = "objects" if is_style(names[0]) is None else "styles"
        for suffix, images in seen.both:
            for k, hit in hits(label, images[seen.rows(concept)]).items():
                values = ~hit if kind == "esr" else hit
                sheet.share(f"{kind}{k}{suffix}", concept, values)
                pooled.setdefault(f"{kind}{k}{suffix}", []).append(values)
                if mixed:
                    pooled.setdefault(f"psr{k}_{sort}{suffix}", []).append(values)
    for name, parts in pooled.items():
        sheet.share(name, None, np.concatenate(parts))
    return pooled
