"""Two preserved objects in one prompt: are both there? Erasure is known to hurt composition before it hurts
single objects (Erasure or Erosion, 2604.04575).
"""

import numpy as np

from expunge.core.errors import CoreError
from expunge.core.evaluation.evidence import Evidence, Rows

CONVENTIONS = [
    (
        'both5: the share of pictures of two preserved objects ("a cat and a teapot") in which both are'
        " among the first 5 guesses of their judge. both5_base: the base model's, which may be low: then"
        " the figure says little, and where it is 0 there is none. It is by the guesses alone: what says"
        " 'none of these' was taught that a blend of two objects is none. A classifier of single objects"
        " sees less than the detectors that GenEval counts objects with: not comparable with it. Pairs of"
        " which an object has no judge of six answers or more are left out."
    ),
]


def measure(seen: Evidence) -> None:
    """Both objects in the top 5, over all pairs."""
    rows = [i for i, p in enumerate(seen.pictures) if p.kind == "pair"]
    named = {i: (seen.pictures[i].concept, str(seen.pictures[i].subject)) for i in rows}
    found: dict[str, dict[int, list[bool]]] = {suffix: {i: [] for i in rows} for suffix, _ in seen.both}
    for name in dict.fromkeys(name for pair in named.values() for name in pair):
        own = [i for i in rows if name in named[i]]
        for suffix, images in seen.both:
            for i, hit in zip(own, top5(seen, name, images[own]), strict=False):
                found[suffix][i].append(bool(hit))
    judged = [i for i in rows if len(found[""][i]) == 2]
    if rows and not judged:
        return seen.sheet.lacks("both5", "no judge knows both objects of any pair among six answers or more")
    pairs = [" ".join(sorted(named[i])) for i in judged]
    shown = {suffix: np.array([all(hits[i]) for i in judged]) for suffix, hits in found.items()}
    if judged and not shown["_base"].any():
        seen.sheet.share("both5_base", None, shown["_base"], pairs)
        why = f"the base model itself shows both objects in none of {len(judged)} pictures"
        return seen.sheet.lacks("both5", f"{why}: there is nothing to preserve")
    for suffix, hits_of_all in shown.items():
        if judged:
            seen.sheet.share(f"both5{suffix}", None, hits_of_all, pairs)
    return None


def top5(seen: Evidence, name: str, images: Rows) -> Rows:
    """Whether each picture shows the object, (N,); empty where nobody can say so."""
    try:
        return seen.judge([name]).look(images).closed.get(5, np.zeros(0, bool))
    except CoreError:
        return np.zeros(0, bool)
