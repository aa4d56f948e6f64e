"""What a client may ask for: the request specs, shared by api and worker. Imports no torch.

Every field says its meaning, unit, default and source; this text is the OpenAPI text.
"""

from expunge.core.specs.adversarial import AgeSpec, ApSpec
from expunge.core.specs.base import (
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
from expunge.core.specs.closed_form import ReceSpec, TimeSpec, UceSpec, UnifiedEditSpec
from expunge.core.specs.debias import DebiasSpec
from expunge.core.specs.evaluation import EvaluationSpec, Thresholds
from expunge.core.specs.fine_tuning import FineTuneSpec, LatentsSpec, Layers, LoraSpec, TrainSpec
from expunge.core.specs.hiding import HideEvaluationSpec, HideSpec, HideThresholds, HidingMethod, RecoverySpec
from expunge.core.specs.impact import ImpactSpec
from expunge.core.specs.inspection import InspectSpec
from expunge.core.specs.inversion import InversionSpec
from expunge.core.specs.jobs import (
    ACCEPTED,
    MAX_CONCEPTS,
    UNSTACKABLE,
    CombineSpec,
    EraseSpec,
    EvaluateSpec,
    JobSpec,
)
from expunge.core.specs.methods import METHODS, AnyMethod, MethodLike, MethodName, MethodSpec
from expunge.core.specs.names import MAX_TEXT, STYLE_FORMS, Names, clean_text, folded, same
from expunge.core.specs.output_based import (
    AllButOneSpec,
    AntSpec,
    CaSpec,
    EraseAnythingSpec,
    EsdSpec,
    MaceSpec,
    NaiveSpec,
    ScoreSpec,
)
from expunge.core.specs.pruning import OutputBased, PruneSpec
from expunge.core.specs.text_encoder import AdvUnlearnSpec, TextEncoderSpec, TextLoraSpec

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
