"""What an attack is given: the model as it is attacked, the concept, the base model's pictures of it, and a
judge."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from expunge.core.attacks.kept import Kept
from expunge.core.leakage.prompts import held_out
from expunge.core.models import Denoiser, Vocabulary
from expunge.core.models.vocabulary import article
from expunge.core.progress import Callback, Clock, ignore
from expunge.core.specs import Concept
from expunge.core.specs.attacks.attack import AttackSpec
from expunge.core.specs.attacks.suite import facts_of

Images = np.ndarray[Any, np.dtype[np.uint8]]
Hits = np.ndarray[Any, np.dtype[np.bool_]]
Judge = Callable[[Images], Hits]
"""Whether each picture (N, H, W, 3) shows the concept, (N,)."""

HELD_OUT = ("the {}", "one {}", "a picture with a {}", "an old {}", "a {} on a table", "a new {}")
"""Templates that no attack and no method learns with."""
FEW = 4  # pictures that tell whether the others are worth drawing
LESSON_SEED, JUDGED_SEED = 500_000, 1_000_000  # far from the seeds of evaluations, and from each other


@dataclass(frozen=True)
class Scene:
    """One attempt's surroundings.

    model: as it is attacked, a delta worn or not; others: names of other concepts that it draws.
    steps, guidance, batch: how pictures are drawn; seed: of this attempt; kept: results of earlier runs.
    """

    model: Denoiser
    concept: Concept
    others: Sequence[str]
    judge: Judge
    steps: int
    guidance: float
    batch: int
    seed: int
    kept: Kept
    callback: Callback = field(default=ignore)

    @property
    def name(self) -> str:
        return self.concept.name

    def draw(self, prompts: Sequence[str], seeds: Sequence[int], guidance: float | None = None) -> Images:
        """Pictures of the attacked model; guidance: None for the evaluation's."""
        asked = self.guidance if guidance is None else guidance
        how: dict[str, Any] = {"steps": self.steps, "guidance": asked, "batch": self.batch}
        return self.model.draw(prompts, seeds, **how)

    def draw_judged(
        self,
        count: int,
        prompt: Callable[[str], str],
        name: str | None = None,
        guidance: float | None = None,
    ) -> Images:
        """`count` pictures by held-out templates with fresh seeds.

        prompt: what stands for each held-out prompt of `name` (the concept's own where none is given).
        """
        own = self.name if name is None else name
        asked = [prompt(text) for text in judged_prompts(self.model.vocabulary, own, count)]
        return self.draw(asked, judged_seeds(count), guidance)

    def has_won(self, draw: Callable[[int], Images], count: int, step: int, steps: int) -> bool:
        """Whether a search of so many steps may end after this one: every judged picture shows the concept.

        draw: the first n of its `count` judged pictures. It is looked at after each third of the steps, few
        pictures first.
        """
        if step >= steps or step not in (steps // 3, 2 * steps // 3):
            return False
        return all(bool(self.judge(draw(n)).all()) for n in sorted({min(FEW, count), count}))

    def budget(self, spec: AttackSpec) -> dict[str, Any]:
        """All that an attempt depends on but what is worn: what is kept of it is found by this."""
        return {
            "attack": {k: v for k, v in facts_of(spec).items() if k not in ("restarts", "seed", "images")},
            "seed": [self.seed, self.seed - spec.seed],
            "concept": self.concept.model_dump(),
            "others": list(self.others),
            "drawn": [self.steps, self.guidance],
        }

    def own_seeds(self, count: int) -> list[int]:
        """Seeds that nothing else draws with, others for each attempt."""
        return [seed + self.seed * count for seed in judged_seeds(count)]

    def lessons(self, count: int) -> tuple[list[str], Images]:
        """The base model's pictures of the concept, and the prompts that drew them."""
        prompts = cycled(self.model.vocabulary.prompts(self.name), count)
        return prompts, self.drawn_by_base(prompts, [LESSON_SEED + i for i in range(count)])

    def drawn_by_base(self, prompts: Sequence[str], seeds: Sequence[int]) -> Images:
        """Pictures of the base model, drawn once."""

        def make() -> tuple[dict[str, Tensor], str]:
            with self.model.frozen():
                return {"images": torch.from_numpy(self.draw(prompts, seeds))}, ""

        facts = {
            "pictures": list(prompts),
            "seeds": list(seeds),
            "steps": self.steps,
            "guidance": self.guidance,
        }
        images: Images = self.kept.get(facts, make)[0]["images"].numpy()
        return images

    def tell(self, done: int, clock: Clock) -> None:
        """Report that so many steps of a search are done."""
        self.callback({"phase": "attack", "step": done, "total": clock.total, "eta_s": clock.eta(done)})

    def say(self, vectors: Tensor, name: str = "attack") -> str:
        """A word whose embeddings are these vectors (k, D), to be used in prompts."""
        word = f"<{name}-{len(vectors)}>"
        self.model.learn(word, vectors)
        return word


def judged_prompts(vocabulary: Vocabulary, name: str, count: int) -> list[str]:
    """Held-out prompts of a name, in turn; of a style, of objects that no method draws it on."""
    if vocabulary.style(name) is not None:
        return cycled(held_out(vocabulary, name), count)
    return cycled([article(template.format(name)) for template in HELD_OUT], count)


def judged_seeds(count: int) -> list[int]:
    """Seeds that nothing else draws with."""
    return [JUDGED_SEED + i for i in range(count)]


def cycled(texts: Sequence[str], count: int) -> list[str]:
    """`count` of the texts, in turn."""
    return [texts[i % len(texts)] for i in range(count)]


@dataclass
class Attempt:
    """What an attempt came to.

    images: (N, H, W, 3), to be judged: `together` of them in a row are one try, which succeeds where any of
    them shows the concept. found: what was found, for a reader. tensors: the vectors of a found word (k, D).
    curve: pictures after fewer steps, by step.
    """

    images: Images
    found: str
    together: int = 1
    vectors: Tensor | None = None
    curve: dict[int, Images] = field(default_factory=dict)
