"""The registry of attacks.

An attack is a name in NAMES; its spec, in the file of that name in this folder; and its implementation, in
the file of that name in core/attacks. The specs of jobs, the API's document and the report follow from here.
"""

from functools import reduce
from importlib import import_module
from operator import or_
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny

from expunge.core.specs.attacks.attack import AttackSpec
from expunge.core.specs.method import by_name

NAMES = (
    "bypass",
    "paraphrase",
    "transfer",
    "noise_probe",
    "completion",
    "ring_a_bell",
    "mma",
    "unlearn_diff_atk",
    "p4d",
    "inversion",
    "relearn",
)
"""Every attack, the cheapest first."""


def spec_of(name: str) -> type[AttackSpec]:
    """The spec that the attack's module defines."""
    module = import_module(f"{__name__}.{name}")
    (spec,) = (
        each
        for each in vars(module).values()
        if isinstance(each, type) and issubclass(each, AttackSpec) and each.__module__ == module.__name__
    )
    return spec


ATTACKS: dict[str, type[AttackSpec]] = {name: spec_of(name) for name in NAMES}
Preset = Literal["quick", "standard", "thorough"]
PRESETS: dict[Preset, list[dict[str, Any]]] = {
    "quick": [
        {"name": "bypass"},
        {"name": "noise_probe", "images": 6, "etas": [1.0, 1.34, 1.68]},
        {"name": "inversion"},
    ],
    "standard": [
        {"name": "bypass"},
        {"name": "paraphrase"},
        {"name": "transfer", "restarts": 3},
        {"name": "noise_probe"},
        {"name": "completion"},
        {"name": "ring_a_bell"},
        {"name": "mma"},
        {"name": "unlearn_diff_atk", "restarts": 3},
        {"name": "p4d", "restarts": 3},
        {"name": "inversion", "restarts": 3},
        {"name": "relearn"},
        {"name": "relearn", "on": "unrelated"},
        {"name": "relearn", "on": "unrelated", "trained_on": "base"},
    ],
    "thorough": [
        {"name": "bypass"},
        {"name": "paraphrase", "images": 48},
        {"name": "transfer", "restarts": 5, "steps": 1000, "images": 48},
        {"name": "noise_probe", "images": 24, "scales": [1.0, 1.02, 1.03, 1.04]},
        {"name": "completion", "images": 48, "beginnings": [0.04, 0.08, 0.16]},
        {"name": "ring_a_bell", "generations": 3000, "restarts": 3, "images": 48},
        {"name": "mma", "steps": 500, "candidates": 256, "top_k": 256, "restarts": 3, "images": 48},
        {"name": "unlearn_diff_atk", "steps": 1000, "restarts": 5, "images": 48},
        {"name": "p4d", "steps": 1000, "restarts": 5, "images": 48},
        {"name": "inversion", "steps": 1000, "restarts": 5, "images": 48},
        {"name": "inversion", "steps": 1000, "vectors": 8, "restarts": 5, "images": 48},
        {"name": "relearn", "steps": 500, "judged_after": [10, 50, 200], "images": 48},
        {"name": "relearn", "steps": 500, "judged_after": [10, 50, 200], "on": "unrelated", "images": 48},
        {"name": "relearn", "steps": 500, "on": "unrelated", "trained_on": "base", "images": 48},
    ],
}
"""Budgets by name. `standard` takes the published attacks at a tenth to a third of their steps."""


def attacks_of(preset: Preset) -> list[AttackSpec]:
    """The attacks of a preset."""
    return [ATTACKS[each["name"]].model_validate(each) for each in PRESETS[preset]]


def from_preset(value: Any) -> Any:
    """A preset's name stands for its attacks; an attack's own name for the attack with its defaults."""
    if isinstance(value, str) and value in PRESETS:
        return PRESETS[value]
    return value


if TYPE_CHECKING:
    AnyAttack = AttackSpec
else:
    by_parameters = Annotated[reduce(or_, ATTACKS.values()), Field(discriminator="name")]
    AnyAttack = Annotated[
        SerializeAsAny[by_parameters],
        BeforeValidator(by_name, json_schema_input_type=Literal[NAMES] | by_parameters),
    ]

Attacks = Annotated[
    list[AnyAttack],
    BeforeValidator(from_preset, json_schema_input_type=Preset | list[AnyAttack]),
]
"""The type of a field that takes a preset's name or a list of attacks."""
