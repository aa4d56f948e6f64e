"""The registry of methods.

A method is a name in NAMES; its spec, in the file of that name in this folder; and its implementation, in the
file of that name in core/erasure/methods. The specs of jobs, the API's document, the model card and
docs/methods.md follow from here.
"""

from collections.abc import Callable
from functools import reduce
from importlib import import_module
from operator import or_
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny, ValidatorFunctionWrapHandler, WrapValidator

from expunge.core.specs.fine_tuning import FineTuneSpec
from expunge.core.specs.method import MethodSpec, by_name

NAMES = (
    "uce",
    "time",
    "rece",
    "speed",
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
    "erase_flow",
    "stereo",
    "prune",
)
"""Every method, in the order in which the API lists them."""


def spec_in(module: ModuleType) -> type[MethodSpec]:
    """The method's spec that a module defines."""
    (spec,) = (
        each
        for each in vars(module).values()
        if isinstance(each, type) and issubclass(each, MethodSpec) and each.__module__ == module.__name__
    )
    return spec


METHODS: dict[str, type[MethodSpec]] = {name: spec_in(import_module(f"{__name__}.{name}")) for name in NAMES}


def a_method(fits: Callable[[type[MethodSpec]], bool]) -> Any:
    """The type of a field that takes a method which fits: its name, or an object with its parameters."""

    def added_or_ours(value: Any, ours: ValidatorFunctionWrapHandler) -> Any:
        name = value.get("name") if isinstance(value, dict) else getattr(value, "name", None)
        spec = METHODS.get(name) if isinstance(name, str) and name not in NAMES else None
        return spec.model_validate(value) if spec and fits(spec) else ours(value)

    specs = {name: METHODS[name] for name in NAMES if fits(METHODS[name])}
    by_parameters: Any = Annotated[reduce(or_, specs.values()), Field(discriminator="name")]
    names: Any = Literal[tuple(specs)]
    return Annotated[
        SerializeAsAny[by_parameters],  # type: ignore[misc]  # a type that is made here
        WrapValidator(added_or_ours),
        BeforeValidator(by_name, json_schema_input_type=names | by_parameters),
    ]


def add(spec: type[MethodSpec]) -> None:
    """Let the specs of this process take one more method (see `core.erasure.register`).

    Raises: ValueError where its name is one of NAMES.
    """
    name = spec.model_fields["name"].default
    if name in NAMES:
        raise ValueError(f"there is a method '{name}' already: choose another name")
    METHODS[name] = spec


if TYPE_CHECKING:
    AnyMethod = MethodSpec
    HidingMethod = FineTuneSpec
else:
    # The type of prune's own field `method` is known only here
    METHODS["prune"].model_rebuild(_types_namespace={"PrunedMethod": a_method(lambda spec: spec.prunes)})
    AnyMethod = a_method(lambda _: True)
    HidingMethod = a_method(lambda spec: spec.hides)

UNSTACKABLE = tuple(name for name, spec in METHODS.items() if not spec.stackable())
