"""A LoRA's factors, read from a file's tensors, and folded into the weights for a while."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def factors_of(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, tuple[Tensor, Tensor, float]]:
    """module -> (down, up, scale), by diffusers' names; the scale is alpha / rank of the file's own config, or 1 where it has none."""
    out = {}
    for name, down in tensors.items():
        if not name.endswith(".lora_A.weight"):
            continue
        module = name.removesuffix(".lora_A.weight")
        rank, inner = down.shape[0], module.split(".", 1)[1]
        alpha = config.get("unet.alpha_pattern", {}).get(inner, config.get("unet.lora_alpha", rank))
        out[module] = (down, tensors[f"{module}.lora_B.weight"], float(alpha) / rank)
    return out


def difference(down: Tensor, up: Tensor, shape: torch.Size) -> Tensor:
    """up . down as a weight of `shape`; convolutions are flattened to matrices first. float32."""
    return (up.float().flatten(1) @ down.float().flatten(1)).reshape(shape)


@contextmanager
def folded(unet: nn.Module, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> Iterator[None]:
    """Inside, the LoRA is part of the U-Net's weights, as if the model had always had them; afterwards they are back to the last bit."""
    layers = {name.replace(".base_layer", ""): m for name, m in unet.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    saved: dict[str, Tensor] = {}
    for module, (down, up, scale) in factors_of(tensors, config).items():
        name = module.removeprefix("unet.")
        weight = layers[name].weight
        saved[name] = weight.detach().clone()
        weight.data += (scale * difference(down, up, weight.shape)).to(weight.device, weight.dtype)
    try:
        yield
    finally:
        for name, old in saved.items():
            layers[name].weight.data.copy_(old)
