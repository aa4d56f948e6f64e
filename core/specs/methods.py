"""The union of all methods, discriminated by name."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from core.specs.adversarial import AgeSpec, ApSpec
from core.specs.closed_form import ReceSpec, TimeSpec, UceSpec
from core.specs.output_based import AllButOneSpec, AntSpec, CaSpec, EraseAnythingSpec, EsdSpec, MaceSpec, NaiveSpec, ScoreSpec
from core.specs.text_encoder import AdvUnlearnSpec, TextEncoderSpec

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
]
METHODS: dict[str, type[AnyMethod]] = {
    "uce": UceSpec, "time": TimeSpec, "rece": ReceSpec, "text_encoder": TextEncoderSpec, "adv_unlearn": AdvUnlearnSpec, "naive": NaiveSpec, "esd": EsdSpec, "ca": CaSpec, "all_but_one": AllButOneSpec,
    "ant": AntSpec, "ap": ApSpec,
    "age": AgeSpec, "score": ScoreSpec, "erase_anything": EraseAnythingSpec, "mace": MaceSpec,
}  # fmt: skip


def as_method(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


MethodLike = Annotated[MethodSpec, BeforeValidator(as_method, json_schema_input_type=MethodName | MethodSpec)]
