"""Concepts that a run holds although nobody named them: the neighbours, which suffer first, and strangers; of
a style, objects.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from expunge.core.concepts import nearest, unerased
from expunge.core.erasure.losses import drift
from expunge.core.erasure.method import Purpose, Run, few


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


class Retained:
    """Concepts and the empty prompt, whose predictions are to stay the base model's.

    purpose: of the random numbers of a step.
    """

    def __init__(self, run: Run[Any], names: Sequence[str], purpose: Purpose) -> None:
        self.run, self.purpose = run, purpose
        self.texts = {name: run.texts([name]) for name in ["", *names]}
        self.trajectories = few(int(run.spec.trajectories))
        if run.spec.latents == "buffer":
            wanted = {f"retain/{name}": texts for name, texts in self.texts.items()}
            run.trajectories.prefill(wanted, self.trajectories, run.callback)

    def drift(self, step: int) -> Tensor:
        """|eps'(c_p) - eps(c_p)|^2 on one of them."""
        run, g, size = self.run, self.run.generator(step, self.purpose), self.run.spec.batch_size
        name = list(self.texts)[int(torch.randint(len(self.texts), (1,), generator=g))]
        texts = self.texts[name]
        x = run.trajectories.draw(f"retain/{name}", texts, g, size, self.trajectories)
        text = texts[torch.randint(len(texts), (size,), generator=g)]
        return drift(run.model, x, text, run.spec.space)
