"""The union of all methods, discriminated by name."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from expunge.core.specs.adversarial import AgeSpec, ApSpec
from expunge.core.specs.base import as_method
from expunge.core.specs.closed_form import ReceSpec, TimeSpec, UceSpec
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
from expunge.core.specs.pruning import PruneSpec
from expunge.core.specs.text_encoder import AdvUnlearnSpec, TextEncoderSpec

AnyMethod = (
    UceSpec
    | TimeSpec
    | ReceSpec
    | TextEncoderSpec
    | AdvUnlearnSpec
    | NaiveSpec
    | EsdSpec
    | CaSpec
    | AllButOneSpec
    | AntSpec
    | ApSpec
    | AgeSpec
    | ScoreSpec
    | EraseAnythingSpec
    | MaceSpec
    | PruneSpec
)
MethodSpec = Annotated[AnyMethod, Field(discriminator="name")]
MethodName = Literal[
    "uce",
    "time",
    "rece",
    "text_encoder",
    "adv_unlearn",
    "naive",
    "esd",
    "ca",
    "all_but_one",
    "ant",
    "ap",
    "age",
    "score",
    "erase_anything",
    "mace",
    "prune",
]
METHODS: dict[str, type[AnyMethod]] = {
    "uce": UceSpec,
    "time": TimeSpec,
    "rece": ReceSpec,
    "text_encoder": TextEncoderSpec,
    "adv_unlearn": AdvUnlearnSpec,
    "naive": NaiveSpec,
    "esd": EsdSpec,
    "ca": CaSpec,
    "all_but_one": AllButOneSpec,
    "ant": AntSpec,
    "ap": ApSpec,
    "age": AgeSpec,
    "score": ScoreSpec,
    "erase_anything": EraseAnythingSpec,
    "mace": MaceSpec,
    "prune": PruneSpec,
}


MethodLike = Annotated[MethodSpec, BeforeValidator(as_method, json_schema_input_type=MethodName | MethodSpec)]
