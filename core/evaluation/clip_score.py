"""CLIP score, 100 max(cos(picture, prompt), 0) (Hessel et al., 2021), and its drop δ_{c_e}(c) = base −
sanitized for a concept c.
"""

from typing import Any

import numpy as np

from expunge.core.evaluation.judges import Clip, Images


def clip_scores(clip: Clip, images: Images, prompts: list[str]) -> np.ndarray[Any, Any]:
    """One score for each picture and the prompt that drew it, in [0, 100]."""
    scores: np.ndarray[Any, Any] = 100 * np.maximum(clip.cosine(images, prompts), 0)
    return scores
