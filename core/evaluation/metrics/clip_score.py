"""CLIP score, 100 max(cos(picture, prompt), 0) (Hessel et al., 2021), and its drop δ_{c_e}(c) = base −
sanitized for a concept c.
"""

from typing import Any

import numpy as np

from expunge.core.evaluation.evidence import Evidence
from expunge.core.evaluation.judges import Clip, Images

CONVENTIONS = [
    (
        "clip_score: 100 max(cos, 0) of a picture and the prompt that drew it. clip_delta: base minus"
        " sanitized, the mean over pairs with the same prompt and seed. concept null: the pictures of all"
        " preserved concepts."
    ),
]


def clip_scores(clip: Clip, images: Images, prompts: list[str]) -> np.ndarray[Any, Any]:
    """One score for each picture and the prompt that drew it, in [0, 100]."""
    scores: np.ndarray[Any, Any] = 100 * np.maximum(clip.cosine(images, prompts), 0)
    return scores


def measure(seen: Evidence) -> None:
    """CLIP score of both models' pictures with their own prompts, and its drop."""
    if seen.judges.clip is None:
        return seen.sheet.lacks("clip_score", seen.judges.missing.get("clip", "there is no CLIP judge"))
    rows = seen.templates
    prompts = [seen.pictures[i].prompt for i in rows]
    ours, theirs = (
        seen.spread(clip_scores(seen.judges.clip, images[rows], prompts)) for _, images in seen.both
    )
    for name, values in (("clip_score", ours), ("clip_score_base", theirs), ("clip_delta", theirs - ours)):
        seen.mean_by_concept(name, values)
