"""The adapter's settings in a LoRA file's metadata (`lora_adapter_metadata`). peft obeys whatever it finds
there, so only settings of a plain LoRA are allowed.

Only rank, alpha and rslora are used; settings that matter to training alone are not examined.
"""

import json
import re
from typing import Any

from expunge.core.delta_format import COMPONENTS
from expunge.core.delta_format.errors import BadDelta, Fault
from expunge.core.delta_format.metadata import ADAPTER_SETTINGS

NAME = re.compile(r"\^?[A-Za-z0-9_.]{1,200}")  # diffusers writes ^ before whole names
DEFAULT_RANK = 8  # peft's, where the config names none
LARGEST = 1e9  # alpha
UNUSED: tuple[Any, ...] = (None, False, [], {}, "none")
HARMLESS: dict[str, type | tuple[type, ...]] = {
    "base_model_name_or_path": str,
    "ensure_weight_tying": bool,
    "exclude_modules": (str, list),
    "inference_mode": bool,
    "layers_pattern": (str, list),
    "layers_to_transform": (int, list),
    "lora_dropout": (int, float),
    "megatron_core": str,  # read only beside a megatron_config, which is refused
    "peft_version": str,
    "qalora_group_size": int,
    "revision": str,
    "runtime_config": dict,
    "task_type": str,
    "velora_config": dict,
}
"""Settings that have no effect once the weights are there, with their types."""
STARTS = ("gaussian", "mica", "orthogonal")
"""Initialisations, beside peft's default, that leave the base model's weights unchanged."""

CONVERT = (
    "Save the adapter anew with diffusers' save_lora_weights, or leave the metadata out if its alpha is its"
    " rank."
)
DORA = ("belongs to a DoRA: magnitudes of weights, which a plain LoRA cannot hold", "Train without use_dora.")
ALTERED: dict[str, tuple[str, str]] = {
    "init_lora_weights": (
        "names an initialisation that may change the base model's weights (allowed are true, false,"
        f" {', '.join(STARTS)})",
        "Convert it into a plain LoRA: peft's save_pretrained does with"
        " path_initial_model_for_weight_conversion.",
    ),
    "lora_bias": ("trains biases, which a plain LoRA does not have", "Train with lora_bias=False."),
    "bias": ("trains biases, which a plain LoRA does not have", 'Train with bias="none".'),
    "modules_to_save": (
        "replaces whole layers, which a plain LoRA does not",
        "Train without modules_to_save.",
    ),
    "use_dora": DORA,
    "peft_type": ("is not LORA", "Train a LoRA."),
}
"""Settings of adapters that are more than a LoRA: what is wrong with them, and what to do."""
UNKNOWN = ("is not a setting of a plain LoRA, or does not have its form", CONVERT)


def parse_settings(text: str) -> dict[str, Any]:
    """Read the settings: `unet.r`, or `r` in a file of the U-Net alone.

    Raises: BadDelta that names the setting at fault.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        why = f"is not JSON ({str(error)[:100]})"
        raise BadDelta(Fault.SETTINGS, ADAPTER_SETTINGS, why, CONVERT) from error
    if not isinstance(found, dict):
        raise BadDelta(Fault.SETTINGS, ADAPTER_SETTINGS, "is not a JSON object", CONVERT)
    for key, value in found.items():
        component, dot, name = key.rpartition(".")
        known = component in COMPONENTS if dot else True
        if not known or not is_plain(name, value):
            why, remedy = ALTERED.get(name, UNKNOWN)
            raise BadDelta(Fault.SETTINGS, f"{ADAPTER_SETTINGS}.{key[:100]}", why, remedy)
    return found


def is_plain(name: str, value: Any) -> bool:
    """Whether a setting has a value that a plain LoRA may have; names of layers must not be regular
    expressions here.
    """
    match name:
        case "r":
            return is_rank(value)
        case "lora_alpha":
            return is_alpha(value)
        case "rank_pattern":
            return isinstance(value, dict) and are_names(list(value)) and all(map(is_rank, value.values()))
        case "alpha_pattern":
            return isinstance(value, dict) and are_names(list(value)) and all(map(is_alpha, value.values()))
        case "target_modules":
            # A pattern is not examined: the tensors say which layers
            return isinstance(value, str) or are_names(value)
        case "use_rslora":
            return isinstance(value, bool)
        case "init_lora_weights":
            if isinstance(value, str):
                return value.lower() in STARTS
            return value is None or isinstance(value, bool)
        case "peft_type":
            return bool(value == "LORA")
        case "auto_mapping":
            if isinstance(value, dict):
                return all(isinstance(each, str | None) for each in value.values())
            return value is None
    if any(value is unused or (value == unused and type(value) is type(unused)) for unused in UNUSED):
        return True
    return name in HARMLESS and isinstance(value, HARMLESS[name])


def is_alpha(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < LARGEST


def is_rank(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 1 << 16


def are_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) and NAME.fullmatch(each) for each in value)


def covers(name: str, layer: str) -> bool:
    """Whether a name in the settings means this layer: its whole name, or, without ^ before it, its end."""
    return layer == name.removeprefix("^") or (not name.startswith("^") and layer.endswith(f".{name}"))
