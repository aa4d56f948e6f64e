"""CLIP zero-shot: of a concept and its neighbours, which text is nearest to the picture?

MACE's protocol (Lu et al., CVPR 2024) for objects, ten texts "a photo of the {class}", generalised: its ten
are the classes of CIFAR-10; ours are the concept and its nine nearest neighbours in the model's vocabulary.
"""

from dataclasses import dataclass

import torch

from expunge.core.concepts import distances
from expunge.core.evaluation.judges.clip import Clip
from expunge.core.evaluation.judges.concept_judge import Guesses, JudgeKind, Scores, Seen, softmax, top_k
from expunge.core.evaluation.judges.weights import Images
from expunge.core.models import Denoiser, Vocabulary
from expunge.core.models.vocabulary import article

NEIGHBOURS = 9
TEMPERATURE = 100.0  # of CLIP's logits (Radford et al., 2021)


@dataclass(frozen=True)
class ZeroShot:
    """A CLIP model, and the texts that it must choose from: the first `own` of them name the concept."""

    judge: Clip
    texts: list[str]
    own: int
    kind: JudgeKind = "zero_shot"

    @property
    def name(self) -> str:
        return self.judge.name

    @property
    def among(self) -> int:
        """The answers: the concept under all its names is one."""
        return len(self.texts) - self.own + 1

    def look(self, images: Images) -> Seen:
        """(N, H, W, 3) uint8 -> what is seen. Of several names of the concept the nearest counts."""
        return Seen(top_k(self.scores(images), [0]))

    def scores(self, images: Images) -> Scores:
        """Cosine similarity with the nearest of the concept's names, and with each other text, (N, among)."""
        scores = self.judge.similarities(images, self.texts)
        best = scores[:, : self.own].amax(1, keepdim=True)
        found: Scores = torch.cat([best, scores[:, self.own :]], 1).numpy()
        return found

    def guesses(self, images: Images) -> Guesses:
        """(N, H, W, 3) uint8 -> each text's probability, at CLIP's own temperature."""
        answers = [self.texts[0], *self.texts[self.own :]]
        return Guesses(answers, softmax(TEMPERATURE * self.scores(images)), 0)


def zero_shot(names: list[str], clip: Clip, model: Denoiser, others: list[str] | None = None) -> ZeroShot:
    """The judge of a concept, by all its names, among its nearest neighbours in the model's vocabulary; or
    among other texts that were asked for.
    """
    vocabulary = model.vocabulary
    others = neighbours(names, model) if others is None else others
    rivals = [t for t in others if not any(vocabulary.same(t, name) for name in names)]
    own = [text_of(name, vocabulary) for name in names]
    return ZeroShot(clip, [*own, *(text_of(t, vocabulary) for t in rivals)], len(own))


def neighbours(names: list[str], model: Denoiser) -> list[str]:
    """The nearest other concepts, or, of a style, other styles, in the text encoder's space."""
    same = model.vocabulary.same
    pool = [t for t in model.vocabulary.targets(names[0]) if not any(same(t, name) for name in names)]
    order = distances(model, names[0], pool).argsort(stable=True).tolist()
    return [pool[i] for i in order[:NEIGHBOURS]]


def text_of(name: str, vocabulary: Vocabulary) -> str:
    """The text that stands for a concept; a style as it is named, a proper name without an article."""
    style = vocabulary.style(name)
    if style is not None:
        return f"a picture {vocabulary.style_template.format(style)}"
    return f"a photo of {name}" if name[:1].isupper() else article(f"a photo of a {name}")
