"""Draw a concept with the model as it is, and count which of its attributes the pictures show: the measured
half of debiasing.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from expunge.core.evaluation.judges import judges_for
from expunge.core.evaluation.metrics.attributes import distance, judge_of, shares_of
from expunge.core.models import Denoiser
from expunge.core.specs import Concept, DebiasSpec

SEEDS = 1_000_000  # first seed of the pictures counted, far from those that judge the result


class Counter:
    """Counts one concept's attributes, a round at a time; each round has seeds of its own."""

    def __init__(self, model: Denoiser, concept: Concept, spec: DebiasSpec, seed: int) -> None:
        self.model, self.concept, self.spec, self.seed = model, concept, spec, seed
        self.judge = judge_of(concept, judges_for(model.source, str(model.device)), model.vocabulary)
        self.prompts = model.vocabulary.prompts(concept.name)
        self.asked = torch.tensor(concept.wanted, dtype=torch.float64)

    def lacks(self, turn: int, report: Callable[[str], None]) -> tuple[Tensor, float]:
        """Asked share - share found of each attribute, (P,), and the distance of the whole from what is
        asked.
        """
        spec, first = self.spec, SEEDS + self.seed + turn * self.spec.images
        images = self.model.draw(
            [self.prompts[k % len(self.prompts)] for k in range(spec.images)],
            list(range(first, first + spec.images)),
            steps=spec.sampling_steps,
            guidance=spec.guidance_scale,
            callback=lambda p: report(f"counting attributes: {p['step']} of {p['total']} pictures"),
        )
        labels = self.judge.labels(images)
        found = torch.from_numpy(shares_of(labels, len(self.asked))[:-1])
        return self.asked - found, distance(labels, self.concept.wanted)
