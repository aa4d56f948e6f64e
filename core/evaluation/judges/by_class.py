"""A concept that is a class of a classifier."""

from dataclasses import dataclass, field

from expunge.core.evaluation.judges.bench import Judges
from expunge.core.evaluation.judges.classifier import Classifier
from expunge.core.evaluation.judges.concept_judge import Guesses, JudgeKind, Seen, softmax, top_k
from expunge.core.evaluation.judges.weights import Images
from expunge.core.models import Vocabulary
from expunge.core.specs import same


@dataclass(frozen=True)
class ByClass:
    """The class that stands for a concept, the classifier that has it, and who says "none of these"."""

    judge: Classifier
    index: int
    rejects: Classifier
    kind: JudgeKind = "classifier"
    texts: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.judge.name

    @property
    def among(self) -> int:
        return len(self.judge.classes)

    def look(self, images: Images) -> Seen:
        """(N, H, W, 3) uint8 -> what is seen."""
        logits = self.judge.logits(images).numpy()
        return Seen(top_k(logits, [self.index]), self.rejects.sees_none(images))

    def guesses(self, images: Images) -> Guesses:
        """(N, H, W, 3) uint8 -> each class's probability."""
        return Guesses(self.judge.classes, softmax(self.judge.logits(images).numpy()), self.index)


def find_class(names: list[str], judges: Judges, vocabulary: Vocabulary) -> ByClass | None:
    """The class of a concept under any of its names, in an uploaded classifier or in the model's; of a style,
    in the style judge. None where no class has one of these names: it is never guessed.

    The style judge says what the concept judge says of "none of these": a style is seen on an object.
    """
    for name in names:
        style = vocabulary.style(name)
        for judge in (judges.uploaded, judges.concept if style is None else judges.style):
            if judge is None:
                continue
            for index, class_ in enumerate(judge.classes):
                if same(class_, style or name):
                    rejects = judges.concept if judge is judges.style and judges.concept else judge
                    return ByClass(judge, index, rejects)
    return None
