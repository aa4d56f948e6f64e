"""Concepts that a run holds although nobody named them: the neighbours, which suffer first, and strangers."""

from typing import Any

import torch

from core.concepts import nearest
from core.erasure.loop import Run


def retained(run: Run[Any], count: int, purpose: int) -> list[str]:
    """Names: the job's `preserve`, then for each concept its nearest in the vocabulary and as many drawn from the rest, `count` in all."""
    names, half = list(run.preserve), max(1, count // (2 * len(run.concepts)))
    for i, concept in enumerate(run.concepts):
        space = nearest(run.model, concept, run.concepts)
        strangers = torch.randperm(max(0, len(space) - half), generator=run.generator(i, purpose))[:half] + half
        names += [*space[:half], *(space[k] for k in strangers.tolist())]
    return list(dict.fromkeys(names))
