"""The judges, one file for each kind: what is in a picture, and how well it agrees with a text."""

from expunge.core.evaluation.judges.bench import BUNDLED, Judges, judges_for
from expunge.core.evaluation.judges.classifier import RESNET50, Classifier, load_classifier
from expunge.core.evaluation.judges.clip import VIT_B_32, Clip, load_clip
from expunge.core.evaluation.judges.concept_judge import ConceptJudge, Seen
from expunge.core.evaluation.judges.weights import Images, Rows

__all__ = [
    "BUNDLED",
    "RESNET50",
    "VIT_B_32",
    "Classifier",
    "Clip",
    "ConceptJudge",
    "Images",
    "Judges",
    "Rows",
    "Seen",
    "judges_for",
    "load_classifier",
    "load_clip",
]
