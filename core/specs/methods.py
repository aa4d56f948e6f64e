"""The union of all methods, discriminated by name."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from core.specs.adversarial import AgeSpec, ApSpec
from core.specs.closed_form import ReceSpec, TimeSpec, UceSpec
from core.specs.output_based import AllButOneSpec, EsdSpec, NaiveSpec

AnyMethod = UceSpec | TimeSpec | ReceSpec | NaiveSpec | EsdSpec | AllButOneSpec | ApSpec | AgeSpec
MethodSpec = Annotated[AnyMethod, Field(discriminator="name")]
MethodName = Literal["uce", "time", "rece", "naive", "esd", "all_but_one", "ap", "age"]
METHODS: dict[str, type[AnyMethod]] = {
    "uce": UceSpec, "time": TimeSpec, "rece": ReceSpec, "naive": NaiveSpec, "esd": EsdSpec, "all_but_one": AllButOneSpec, "ap": ApSpec,
    "age": AgeSpec,
}  # fmt: skip


def as_method(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


MethodLike = Annotated[MethodSpec, BeforeValidator(as_method, json_schema_input_type=MethodName | MethodSpec)]
