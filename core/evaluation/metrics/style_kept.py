"""Does a preserved picture keep its style? A classifier still says "dog" for a dog drawn in another style."""

import numpy as np

from expunge.core.evaluation.evidence import Evidence

CONVENTIONS = [
    (
        "style_kept: the share of preserved pictures to which the style judge gives the same first guess as"
        " to the base model's picture of the same prompt and seed, whatever style the prompt asks for or the"
        " guess is. It is closed-set: a picture in no style at all has a first guess too. Not a style's PSR,"
        " which asks for the style that the prompt names."
    ),
]


def measure(seen: Evidence) -> None:
    """By preserved concept and over all."""
    judge, kept = seen.judges.style, np.flatnonzero(seen.kept)
    if judge is None:
        return seen.sheet.lacks("style_kept", "no judge of this model knows styles")
    if not len(kept):
        return None
    same = np.zeros(len(seen.pictures), bool)
    before, after = (judge.logits(images[kept]).argmax(1) for images in (seen.base, seen.sanitized))
    same[kept] = (before == after).numpy()
    for name in seen.preserved:
        seen.share("style_kept", name, same, seen.rows(name))
    seen.share("style_kept", None, same, kept)
    return None
