"""Does a delta fit a model? Asked of every delta that comes from outside, before it is loaded."""

import math
import re
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from expunge.core import lora_format, sources
from expunge.core.adapter_config import KEY, NotPlain
from expunge.core.errors import CoreError
from expunge.core.lora_format import SAVE
from expunge.core.models import lora_factors, masks

MASKED = re.compile(r"(unet\..+)\.pruned")


def refuse(code: str, message: str) -> CoreError:
    return CoreError(code, message, field="delta")


def check_delta(path: str | Path, source: str) -> None:
    """Refuse a delta that is not safetensors, does not fit the model's U-Net and text encoder, or holds NaN;
    the error says which tensor and why.
    """
    tensors, metadata = read_tensors(path)
    shapes = layer_shapes(source)
    if masks.is_mask(tensors):
        check_mask(tensors, shapes)
    else:
        check_lora(tensors, metadata, shapes)


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, "pt") as f:
            return {name: f.get_tensor(name) for name in f.keys()}, f.metadata() or {}
    except (SafetensorError, OSError) as e:
        raise refuse("not_safetensors", f"the delta is not a safetensors file ({e}). {SAVE}") from e


def check_mask(tensors: dict[str, Tensor], shapes: dict[str, tuple[int, ...]]) -> None:
    """Each layer's bits as many as its weights, and the last byte filled up with zeros."""
    for name, packed in tensors.items():
        match = MASKED.fullmatch(name)
        if match is None:
            raise refuse(
                "delta_does_not_fit",
                f"tensor '{name[:200]}' is not named unet.<layer>.pruned, as the others of this sparse"
                " mask are",
            )
        if match[1] not in shapes:
            raise refuse(
                "delta_does_not_fit",
                f"the model has no layer '{match[1]}': the mask belongs to another model",
            )
        count = math.prod(shapes[match[1]])
        if packed.dtype != torch.uint8 or tuple(packed.shape) != (-(-count // 8),):
            words = (
                f"{packed.dtype} {tuple(packed.shape)} is no mask of layer '{match[1]}', whose weight is"
                f" {shapes[match[1]]}"
            )
            raise refuse("delta_does_not_fit", f"{words}: the mask belongs to another model")
        if int(packed[-1]) & (1 << (-count % 8)) - 1:
            raise refuse(
                "delta_does_not_fit",
                f"tensor '{name}' has bits behind its last weight: the mask belongs to another model",
            )


def check_lora(
    tensors: dict[str, Tensor], metadata: dict[str, str], shapes: dict[str, tuple[int, ...]]
) -> None:
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or not bool(torch.isfinite(tensor.float()).all()):
            raise refuse(
                "delta_not_finite", f"tensor '{name[:200]}' holds NaN, infinity or no floating-point numbers"
            )
    try:
        pairs = lora_factors.read(tensors, metadata)
    except NotPlain as e:
        raise refuse(
            "bad_delta" if e.field.startswith(KEY) else "delta_does_not_fit", f"the delta's {e}"
        ) from e
    for layer, why in lora_format.misfits(
        pairs, {name: tensor.shape for name, tensor in tensors.items()}, shapes
    ).items():
        raise refuse("delta_does_not_fit", f"{layer}: {why}: the delta belongs to another model")


def layer_shapes(source: str) -> dict[str, tuple[int, ...]]:
    """Weight shape of every linear and convolution layer of the model's U-Net and text encoder; no weights
    are read.
    """
    folder = str(sources.fetch(source).folder)
    config, text = (
        UNet2DConditionModel.load_config(folder, subfolder="unet"),
        CLIPTextConfig.from_pretrained(folder, subfolder="text_encoder"),
    )
    with torch.device("meta"):
        parts = {"unet": UNet2DConditionModel.from_config(config), "text_encoder": CLIPTextModel(text)}
    found = {f"{part}.{name}": m for part, whole in parts.items() for name, m in whole.named_modules()}
    return {
        name: tuple(m.weight.shape)
        for name, m in found.items()
        if isinstance(m, torch.nn.Linear | torch.nn.Conv2d)
    }
