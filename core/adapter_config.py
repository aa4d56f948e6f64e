"""What a LoRA file says of its own adapter (`lora_adapter_metadata`). peft does whatever stands there, so
only what describes a plain LoRA may.

Of the settings only rank, alpha and rslora are used; those that matter to a training alone are never looked
into. Imports no torch.
"""

import json
import re
from typing import Any

KEY = "lora_adapter_metadata"
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
"""What changes nothing once the weights are there, by the type it has."""
STARTS = ("gaussian", "mica", "orthogonal")
"""Ways to start a training, beside peft's own, that are known to leave the base model's weights as they were.
"""

CONVERT = (
    "Save the adapter anew with diffusers' save_lora_weights, or leave the metadata out if its alpha is its"
    " rank."
)
DORA = ("is of a DoRA: the weights' magnitudes, which a plain LoRA cannot hold", "Train without use_dora.")
ALTERED: dict[str, tuple[str, str]] = {
    "init_lora_weights": (
        (
            "names a start that may change the base model's weights (others than true, false,"
            f" {', '.join(STARTS)})"
        ),
        (
            "Convert it into a plain LoRA: peft's save_pretrained does with"
            " path_initial_model_for_weight_conversion."
        ),
    ),
    "lora_bias": ("trains biases, which a plain LoRA has not", "Train with lora_bias=False."),
    "bias": ("trains biases, which a plain LoRA has not", 'Train with bias="none".'),
    "modules_to_save": (
        "replaces whole layers, which a plain LoRA does not",
        "Train without modules_to_save.",
    ),
    "use_dora": DORA,
    "peft_type": ("is not LORA", "Train a LoRA."),
}
"""Settings of adapters that are more than a LoRA: what they are, and what to do."""


class NotPlain(ValueError):
    """A file that is no plain LoRA: the tensor or setting at fault, what it is, and what to do."""

    def __init__(self, field: str, message: str, remedy: str) -> None:
        self.field, self.message, self.remedy = field[:200] or "body", message, remedy
        super().__init__(f"{self.field}: {message}. {remedy}")


def number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < LARGEST


def rank(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 1 << 16


def names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) and NAME.fullmatch(each) for each in value)


def plain(name: str, value: Any) -> bool:
    """Whether a setting has a value that a plain LoRA may have; names of layers are no regular expressions
    here.
    """
    match name:
        case "r":
            return rank(value)
        case "lora_alpha":
            return number(value)
        case "rank_pattern" | "alpha_pattern":
            allowed = rank if name == "rank_pattern" else number
            return isinstance(value, dict) and names(list(value)) and all(map(allowed, value.values()))
        case "target_modules":
            # A pattern is not looked into: the tensors say which layers
            return isinstance(value, str) or names(value)
        case "use_rslora":
            return isinstance(value, bool)
        case "init_lora_weights":
            return (
                value is None
                or isinstance(value, bool)
                or (isinstance(value, str) and value.lower() in STARTS)
            )
        case "peft_type":
            return bool(value == "LORA")
        case "auto_mapping":
            return value is None or (
                isinstance(value, dict) and all(isinstance(each, str | None) for each in value.values())
            )
    return any(value is unused or (value == unused and type(value) is type(unused)) for unused in UNUSED) or (
        name in HARMLESS and isinstance(value, HARMLESS[name])
    )


def parsed(text: str) -> dict[str, Any]:
    """The settings, as `unet.r`, or `r` in a file of the U-Net alone. NotPlain, by the one at fault."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise NotPlain(KEY, f"is not JSON ({str(error)[:100]})", CONVERT) from error
    if not isinstance(found, dict):
        raise NotPlain(KEY, "is no JSON object", CONVERT)
    for key, value in found.items():
        component, dot, name = key.rpartition(".")
        if (
            component not in ("unet", "text_encoder", "")
            or bool(component) != bool(dot)
            or not plain(name, value)
        ):
            what, remedy = ALTERED.get(
                name, ("is nothing that a plain LoRA has, or not in its form", CONVERT)
            )
            raise NotPlain(f"{KEY}.{key[:100]}", what, remedy)
    return found


def covers(name: str, layer: str) -> bool:
    """Whether a name in a config is a layer's, or the end of it; after ^ it is the whole."""
    return layer == name.removeprefix("^") or (not name.startswith("^") and layer.endswith(f".{name}"))
