"""Concepts that a run holds although nobody named them: the neighbours, which suffer first, and strangers; of
a style, objects.
"""

from typing import Any

import torch

from expunge.core.concepts import nearest, unerased
from expunge.core.erasure.method import Purpose, Run


def retained(run: Run[Any], count: int, purpose: Purpose) -> list[str]:
    """Names: the job's `preserve`, then for each concept its nearest in the vocabulary and as many drawn from
    the rest, `count` in all.

    A style's nearest are styles, around objects; what is drawn beside them are objects that name no style.
    """
    names, half = list(run.preserve), max(1, count // (2 * len(run.concepts)))
    vocabulary = run.model.vocabulary
    for i, concept in enumerate(run.concepts):
        near = nearest(run.model, concept, run.concepts)
        rest = near[half:]
        if vocabulary.style(concept.name) is not None:
            rest = unerased(run.model, concept, run.concepts, vocabulary.concepts)
        strangers = torch.randperm(len(rest), generator=run.generator(i, purpose))[:half]
        names += [*near[:half], *(rest[k] for k in strangers.tolist())]
    return list(dict.fromkeys(names))
