"""ESR-k and PSR-k: does the classifier find the concept among its k first guesses?

ESR-k is the share of an erased concept's pictures whose label is NOT in the top k; PSR-k the share of a
preserved concept's pictures whose label is.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from expunge.core.evaluation.judges import Classifier, Images, Judges
from expunge.core.models import Vocabulary
from expunge.core.specs import same

KS = (1, 5)


@dataclass(frozen=True)
class Label:
    """The class that stands for a concept, and who judges it."""

    judge: Classifier
    index: int


def label_of(names: list[str], judges: Judges, vocabulary: Vocabulary) -> Label | None:
    """The class of a concept under any of its names: a style's from the style judge.

    None: not judgeable, and never guessed.
    """
    for name in names:
        style = vocabulary.style(name)
        judge = judges.concept if style is None else judges.style
        if judge is not None:
            index = next((i for i, c in enumerate(judge.classes) if same(c, style or name)), None)
            if index is not None:
                return Label(judge, index)
    return None


def in_top_k(logits: Tensor, index: int, k: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Whether class `index` is among the k largest logits of each row, (N,)."""
    return (logits.topk(min(k, logits.shape[1])).indices == index).any(1).numpy()


def hits(label: Label, images: Images) -> dict[int, np.ndarray[Any, np.dtype[np.bool_]]]:
    """For each k, whether each picture's top-k holds the label; a judge of k classes or fewer always would,
    and is not asked.
    """
    logits = label.judge.logits(images)
    return {k: in_top_k(logits, label.index, k) for k in KS if k < len(label.judge.classes)}
