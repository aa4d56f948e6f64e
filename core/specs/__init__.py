"""What a client may ask for: the request specs, shared by api and worker. Imports no torch.

Every field says its meaning, unit, default and source; this text is the OpenAPI text.
"""

from core.specs.adversarial import AgeSpec, ApSpec
from core.specs.base import MAX_TEXT, Concept, ConceptLike, ConceptSpace, Spec, Text, as_concept, clean_text, same
from core.specs.closed_form import ReceSpec, TimeSpec, UceSpec, UnifiedEditSpec
from core.specs.debias import DebiasSpec
from core.specs.evaluation import EvaluationSpec, Thresholds
from core.specs.fine_tuned import FineTuneSpec, Layers, LoraSpec
from core.specs.jobs import MAX_CONCEPTS, CombineSpec, EraseSpec, EvaluateSpec, JobSpec
from core.specs.methods import METHODS, AnyMethod, MethodLike, MethodName, MethodSpec, as_method
from core.specs.output_based import AllButOneSpec, AntSpec, CaSpec, EraseAnythingSpec, EsdSpec, MaceSpec, NaiveSpec, ScoreSpec

__all__ = [
    "MAX_CONCEPTS",
    "MAX_TEXT",
    "METHODS",
    "AgeSpec",
    "AllButOneSpec",
    "AntSpec",
    "AnyMethod",
    "ApSpec",
    "CaSpec",
    "CombineSpec",
    "Concept",
    "ConceptLike",
    "ConceptSpace",
    "DebiasSpec",
    "EraseAnythingSpec",
    "EraseSpec",
    "EsdSpec",
    "EvaluateSpec",
    "EvaluationSpec",
    "FineTuneSpec",
    "JobSpec",
    "Layers",
    "LoraSpec",
    "MaceSpec",
    "MethodLike",
    "MethodName",
    "MethodSpec",
    "NaiveSpec",
    "ReceSpec",
    "ScoreSpec",
    "Spec",
    "Text",
    "Thresholds",
    "TimeSpec",
    "UceSpec",
    "UnifiedEditSpec",
    "as_concept",
    "as_method",
    "clean_text",
    "same",
]
