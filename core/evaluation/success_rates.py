"""ESR-k and PSR-k: is the concept among the classifier's first k guesses?

ESR-k is the share of an erased concept's pictures whose label is NOT in the top k; PSR-k is the share of a
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
