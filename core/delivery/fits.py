"""Does a delta fit a model? Asked of every delta that comes from outside, before it is loaded."""

import math
import re
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from core import adapter_config, sources
from core.errors import CoreError
from core.models import masks

NAME = re.compile(r"(unet|text_encoder)\.(.+)\.lora_([AB])\.weight")
MASKED = re.compile(r"(unet\..+)\.pruned")
SAVE = "save it with diffusers' save_lora_weights"


def refuse(code: str, message: str) -> CoreError:
    return CoreError(code, message, field="delta")


def check_delta(path: Path, source: str) -> None:
    """Refuse a delta that is not safetensors, does not fit the model's U-Net and text encoder, or holds NaN; the error says which tensor and why."""
    tensors, shapes = read_tensors(path), layer_shapes(source)
    if masks.is_mask(tensors):
        check_mask(tensors, shapes)
    else:
        check_lora(tensors, shapes)


def read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, "pt") as f:
            tensors = {name: f.get_tensor(name) for name in f.keys()}
            metadata = f.metadata() or {}
    except (SafetensorError, OSError) as e:
        raise refuse("not_safetensors", f"the delta is not a safetensors file ({e}): {SAVE}") from e
    if not tensors:
        raise refuse("bad_delta", "the delta holds no tensors")
    if adapter_config.KEY in metadata:
        try:
            adapter_config.check(metadata[adapter_config.KEY], {name: tensor.shape for name, tensor in tensors.items()})
        except ValueError as e:
            raise refuse("bad_delta", f"the delta's {e}: {SAVE}") from e
    return tensors


def check_mask(tensors: dict[str, Tensor], shapes: dict[str, tuple[int, ...]]) -> None:
    """Each layer's bits as many as its weights, and the last byte filled up with zeros."""
    for name, packed in tensors.items():
        match = MASKED.fullmatch(name)
        if match is None:
            raise refuse(
                "delta_does_not_fit", f"tensor '{name[:200]}' is not named unet.<layer>.pruned, as the others of this sparse mask are"
            )
        if match[1] not in shapes:
            raise refuse("delta_does_not_fit", f"the model has no layer '{match[1]}': the mask belongs to another model")
        count = math.prod(shapes[match[1]])
        if packed.dtype != torch.uint8 or tuple(packed.shape) != (-(-count // 8),):
            words = f"{packed.dtype} {tuple(packed.shape)} is no mask of layer '{match[1]}', whose weight is {shapes[match[1]]}"
            raise refuse("delta_does_not_fit", f"{words}: the mask belongs to another model")
        if int(packed[-1]) & (1 << (-count % 8)) - 1:
            raise refuse("delta_does_not_fit", f"tensor '{name}' has bits behind its last weight: the mask belongs to another model")


def check_lora(tensors: dict[str, Tensor], shapes: dict[str, tuple[int, ...]]) -> None:
    for layer, pair in paired(tensors).items():
        if layer not in shapes:
            raise refuse("delta_does_not_fit", f"the model has no layer '{layer}': the delta belongs to another model")
        if len(pair) != 2:
            raise refuse("delta_does_not_fit", f"layer '{layer}' has only one of lora_A and lora_B: {SAVE}")
        a, b, shape = pair["A"], pair["B"], shapes[layer]
        rank = a.shape[0] if a.dim() else 0
        if rank < 1 or tuple(a.shape) != (rank, *shape[1:]) or tuple(b.shape) != (shape[0], rank, *(1 for _ in shape[2:])):
            words = f"lora_A {tuple(a.shape)} and lora_B {tuple(b.shape)} do not fit layer '{layer}', whose weight is {shape}"
            raise refuse("delta_does_not_fit", f"{words}: the delta belongs to another model")
        for part, tensor in pair.items():
            if not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
                raise refuse("delta_not_finite", f"tensor '{layer}.lora_{part}.weight' holds NaN, infinity or no floating-point numbers")


def paired(tensors: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Layer, as `unet.…` or `text_encoder.…`, -> {"A": down, "B": up}"""
    layers: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        match = NAME.fullmatch(name)
        if match is None:
            raise refuse("delta_does_not_fit", f"tensor '{name[:200]}' is not named unet.<layer>.lora_A.weight or lora_B.weight: {SAVE}")
        layers.setdefault(f"{match[1]}.{match[2].removeprefix('text_model.')}", {})[match[3]] = tensor
    return layers


def layer_shapes(source: str) -> dict[str, tuple[int, ...]]:
    """Weight shape of every linear and convolution layer of the model's U-Net and text encoder; no weights are read."""
    folder = str(sources.fetch(source).folder)
    config, text = (
        UNet2DConditionModel.load_config(folder, subfolder="unet"),
        CLIPTextConfig.from_pretrained(folder, subfolder="text_encoder"),
    )
    with torch.device("meta"):
        parts = {"unet": UNet2DConditionModel.from_config(config), "text_encoder": CLIPTextModel(text)}
    found = {f"{part}.{name}": m for part, whole in parts.items() for name, m in whole.named_modules()}
    return {name: tuple(m.weight.shape) for name, m in found.items() if isinstance(m, torch.nn.Linear | torch.nn.Conv2d)}
