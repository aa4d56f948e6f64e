"""Do the pictures of one concept still differ from each other? A model may keep a class and draw one picture
of it.
"""

import numpy as np

from expunge.core.evaluation.evidence import Evidence, Rows

CONVENTIONS = [
    (
        "diversity: 1 - cosine of the CLIP judge's image features, the mean over all pairs of a concept's"
        " pictures (other seeds; the prompts differ in their template alone), then over the preserved"
        " concepts; of an erased concept its own. diversity_base: the base model's on the same prompts and"
        " seeds, which it is to be compared with. Papers also take LPIPS between pictures of one prompt,"
        " which is another scale. n: concepts, of one concept its pairs."
    ),
]


def mean_distance(features: Rows) -> float:
    """1 - cosine, the mean over the pairs of rows of unit length, (N, D), N of 2 or more."""
    n = len(features)
    total = (features.sum(0) ** 2).sum() - (features**2).sum()  # sum over i != j of cos(i, j)
    return float(1 - total / (n * (n - 1)))


def measure(seen: Evidence) -> None:
    """By concept of two pictures or more, and over the preserved ones."""
    features = seen.clip_features
    if features is None:
        return seen.sheet.lacks("diversity", seen.judges.missing.get("clip", "there is no CLIP judge"))
    rows = {name: seen.rows(name) for name in dict.fromkeys((*seen.names, *seen.preserved))}
    several = {name: own for name, own in rows.items() if len(own) > 1}
    for suffix, _ in seen.both:
        found = {name: mean_distance(features[suffix][own]) for name, own in several.items()}
        for name, value in found.items():
            seen.sheet.figure(f"diversity{suffix}", name, value, len(rows[name]) * (len(rows[name]) - 1) // 2)
        kept = [value for name, value in found.items() if name in seen.preserved]
        if kept:
            seen.sheet.mean(f"diversity{suffix}", None, np.array(kept))
    return None
