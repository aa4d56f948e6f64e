"""What a LoRA file says of its own adapter (`lora_adapter_metadata`). peft does whatever stands there, so only what describes a plain LoRA may.

Imports no torch: the api reads uploads too.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

KEY = "lora_adapter_metadata"
TENSOR = re.compile(r"(unet|text_encoder)\.(.+)\.lora_A\.weight")
NAME = re.compile(r"[A-Za-z0-9_.]{1,200}")
DEFAULT_RANK = 8  # peft's, where the config names none
UNUSED: tuple[Any, ...] = (None, False, [], {}, "none")
HARMLESS: dict[str, type | tuple[type, ...]] = {
    "base_model_name_or_path": str,
    "inference_mode": bool,
    "init_lora_weights": bool,
    "lora_dropout": (int, float),
    "megatron_core": str,  # read only beside a megatron_config, which is refused
    "peft_version": str,
    "qalora_group_size": int,
    "revision": str,
}
"""What changes nothing once the weights are there, by the type it has."""


def number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0


def rank(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 1 << 16


def names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) and NAME.fullmatch(each) for each in value)


def plain(name: str, value: Any) -> bool:
    """Whether a setting has a value that a plain LoRA may have; names of layers are no regular expressions here."""
    match name:
        case "r":
            return rank(value)
        case "lora_alpha":
            return number(value)
        case "rank_pattern" | "alpha_pattern":
            allowed = rank if name == "rank_pattern" else number
            return isinstance(value, dict) and names(list(value)) and all(map(allowed, value.values()))
        case "target_modules":
            return names(value)
        case "use_rslora":
            return isinstance(value, bool)
        case "peft_type":
            return bool(value == "LORA")
        case "auto_mapping":
            return value is None or (isinstance(value, dict) and all(isinstance(each, str | None) for each in value.values()))
    return any(value is unused or (value == unused and type(value) is type(unused)) for unused in UNUSED) or (
        name in HARMLESS and isinstance(value, HARMLESS[name])
    )


def parsed(text: str) -> dict[str, Any]:
    """The settings; ValueError that begins with the one at fault, and a colon."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{KEY}: is not JSON ({str(error)[:100]})") from error
    if not isinstance(found, dict):
        raise ValueError(f"{KEY}: is no JSON object")
    for key, value in found.items():
        component, _, name = key.partition(".")
        if component not in ("unet", "text_encoder") or not plain(name, value):
            raise ValueError(f"{KEY}.{key[:100]}: is nothing that a plain LoRA has, or not in its form")
    return found


def check(text: str, shapes: Mapping[str, Sequence[int]]) -> None:
    """Refuse a config that is more than a plain LoRA's, or does not describe these tensors. ValueError, as `parsed`."""
    found = parsed(text)
    for name, shape in shapes.items():
        if match := TENSOR.fullmatch(name):
            component, layer = match.groups()
            if not any(covers(each, layer) for each in found.get(f"{component}.target_modules", [])):
                raise ValueError(f"{KEY}.{component}.target_modules: leaves out the layer '{layer[:200]}'")
            pattern = found.get(f"{component}.rank_pattern", {})
            said = next((r for key, r in pattern.items() if covers(key, layer)), found.get(f"{component}.r", DEFAULT_RANK))
            if list(shape[:1]) != [said]:
                raise ValueError(f"{KEY}.{component}.r: says rank {said} for the layer '{layer[:200]}', whose lora_A is {list(shape)}")


def covers(name: str, layer: str) -> bool:
    """Whether a name in a config is a layer's, or the end of it."""
    return layer == name or layer.endswith(f".{name}")
