"""What a client may ask for: the request specs, shared by api and worker. Imports no torch.

Every field says its meaning, unit, default and source; this text is the OpenAPI text.
"""

from core.specs.adversarial import AgeSpec, ApSpec
from core.specs.base import (
    MIN_IMAGES,
    Concept,
    ConceptLike,
    ConceptSpace,
    Id,
    Spec,
    Text,
    as_concept,
    as_method,
)
from core.specs.closed_form import ReceSpec, TimeSpec, UceSpec, UnifiedEditSpec
from core.specs.debias import DebiasSpec
from core.specs.evaluation import EvaluationSpec, Thresholds
from core.specs.fine_tuned import FineTuneSpec, LatentsSpec, Layers, LoraSpec, TrainSpec
from core.specs.hiding import HideEvaluationSpec, HideSpec, HideThresholds, HidingMethod, RecoverySpec
from core.specs.impact import ImpactSpec
from core.specs.inspection import InspectSpec
from core.specs.inversion import InversionSpec
from core.specs.jobs import ACCEPTED, MAX_CONCEPTS, UNSTACKABLE, CombineSpec, EraseSpec, EvaluateSpec, JobSpec
from core.specs.methods import METHODS, AnyMethod, MethodLike, MethodName, MethodSpec
from core.specs.names import MAX_TEXT, STYLE_FORMS, Names, clean_text, folded, same
from core.specs.output_based import AllButOneSpec, AntSpec, CaSpec, EraseAnythingSpec, EsdSpec, MaceSpec, NaiveSpec, ScoreSpec
from core.specs.pruning import OutputBased, PruneSpec
from core.specs.text_encoder import AdvUnlearnSpec, TextEncoderSpec, TextLoraSpec

SPECS: dict[str, type[JobSpec]] = {
    "erase": EraseSpec,
    "hide": HideSpec,
    "evaluate": EvaluateSpec,
    "combine": CombineSpec,
    "inspect": InspectSpec,
}
"""What each kind of job takes."""

__all__ = [
    "ACCEPTED",
    "MAX_CONCEPTS",
    "MAX_TEXT",
    "METHODS",
    "MIN_IMAGES",
    "SPECS",
    "STYLE_FORMS",
    "UNSTACKABLE",
    "AdvUnlearnSpec",
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
    "HideEvaluationSpec",
    "HideSpec",
    "HideThresholds",
    "HidingMethod",
    "Id",
    "ImpactSpec",
    "InspectSpec",
    "InversionSpec",
    "JobSpec",
    "LatentsSpec",
    "Layers",
    "LoraSpec",
    "MaceSpec",
    "MethodLike",
    "MethodName",
    "MethodSpec",
    "NaiveSpec",
    "Names",
    "OutputBased",
    "PruneSpec",
    "ReceSpec",
    "RecoverySpec",
    "ScoreSpec",
    "Spec",
    "Text",
    "TextEncoderSpec",
    "TextLoraSpec",
    "Thresholds",
    "TimeSpec",
    "TrainSpec",
    "UceSpec",
    "UnifiedEditSpec",
    "as_concept",
    "as_method",
    "clean_text",
    "folded",
    "same",
]
