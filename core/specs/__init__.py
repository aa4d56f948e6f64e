"""What a client may ask for: the request specs, shared by api and worker. Imports no torch.

Every field says its meaning, unit, default and source; this text is the OpenAPI text.
"""

from expunge.core.specs.adversary import AdversarySpec
from expunge.core.specs.base import Spec
from expunge.core.specs.closed_form import PromptEditSpec, UnifiedEditSpec
from expunge.core.specs.concept_space import ConceptSpace
from expunge.core.specs.concepts import MIN_IMAGES, Concept, ConceptLike, as_concept
from expunge.core.specs.debias import DebiasSpec
from expunge.core.specs.evaluation import EvaluationSpec, JudgeSpec, Thresholds
from expunge.core.specs.fields import Id, Text
from expunge.core.specs.fine_tuning import (
    FineTuneSpec,
    LatentsSpec,
    Layers,
    LoraSpec,
    OutputSpec,
    TextLoraSpec,
    TrainSpec,
)
from expunge.core.specs.hiding import HideEvaluationSpec, HideSpec, HideThresholds, RecoverySpec
from expunge.core.specs.impact import ImpactSpec
from expunge.core.specs.inspection import InspectSpec
from expunge.core.specs.inversion import InversionSpec
from expunge.core.specs.jobs import ACCEPTED, MAX_CONCEPTS, CombineSpec, EraseSpec, EvaluateSpec, JobSpec
from expunge.core.specs.leakage import LeakageSpec
from expunge.core.specs.method import MethodSpec
from expunge.core.specs.methods import METHODS, UNSTACKABLE
from expunge.core.specs.methods.adv_unlearn import AdvUnlearnSpec
from expunge.core.specs.methods.age import AgeSpec
from expunge.core.specs.methods.all_but_one import AllButOneSpec
from expunge.core.specs.methods.ant import AntSpec
from expunge.core.specs.methods.ap import ApSpec
from expunge.core.specs.methods.ca import CaSpec
from expunge.core.specs.methods.erase_anything import EraseAnythingSpec
from expunge.core.specs.methods.erase_flow import EraseFlowSpec
from expunge.core.specs.methods.esd import EsdSpec
from expunge.core.specs.methods.mace import MaceSpec
from expunge.core.specs.methods.naive import NaiveSpec
from expunge.core.specs.methods.prune import PruneSpec
from expunge.core.specs.methods.rece import ReceSpec
from expunge.core.specs.methods.score import ScoreSpec
from expunge.core.specs.methods.speed import SpeedSpec
from expunge.core.specs.methods.stereo import StereoSpec
from expunge.core.specs.methods.text_encoder import TextEncoderSpec
from expunge.core.specs.methods.time import TimeSpec
from expunge.core.specs.methods.uce import UceSpec
from expunge.core.specs.names import MAX_TEXT, STYLE_FORMS, Names, clean_text, folded, same

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
    "AdversarySpec",
    "AgeSpec",
    "AllButOneSpec",
    "AntSpec",
    "ApSpec",
    "CaSpec",
    "CombineSpec",
    "Concept",
    "ConceptLike",
    "ConceptSpace",
    "DebiasSpec",
    "EraseAnythingSpec",
    "EraseFlowSpec",
    "EraseSpec",
    "EsdSpec",
    "EvaluateSpec",
    "EvaluationSpec",
    "FineTuneSpec",
    "HideEvaluationSpec",
    "HideSpec",
    "HideThresholds",
    "Id",
    "ImpactSpec",
    "InspectSpec",
    "InversionSpec",
    "JobSpec",
    "JudgeSpec",
    "LatentsSpec",
    "Layers",
    "LeakageSpec",
    "LoraSpec",
    "MaceSpec",
    "MethodSpec",
    "NaiveSpec",
    "Names",
    "OutputSpec",
    "PromptEditSpec",
    "PruneSpec",
    "ReceSpec",
    "RecoverySpec",
    "ScoreSpec",
    "Spec",
    "SpeedSpec",
    "StereoSpec",
    "Text",
    "TextEncoderSpec",
    "TextLoraSpec",
    "Thresholds",
    "TimeSpec",
    "TrainSpec",
    "UceSpec",
    "UnifiedEditSpec",
    "as_concept",
    "clean_text",
    "folded",
    "same",
]
