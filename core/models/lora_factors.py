"""A LoRA's factors, read from a file's tensors, and folded into the weights for a while."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from expunge.core.delta_format import BadDelta, Fault, lora
from expunge.core.delta_format.lora import Pair
from expunge.core.delta_format.metadata import ADAPTER_SETTINGS


def read(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> dict[str, Pair]:
    """The layers of a LoRA in any spelling that diffusers reads. Raises: BadDelta."""
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    return lora.read(metadata, shapes, lambda name: float(tensors[name]))


def read_file(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """A file's tensors and its metadata, without whose rank and alpha every adapter would load at scale 1.

    Raises: BadDelta where it is not a safetensors file.
    """
    try:
        tensors = load_file(path)
        with safe_open(path, "pt") as f:
            return tensors, f.metadata() or {}
    except SafetensorError as e:
        raise BadDelta(Fault.CONTAINER, None, f"is not a safetensors file ({e})") from e


def renamed(tensors: Mapping[str, Tensor], pairs: Mapping[str, Pair]) -> dict[str, Tensor]:
    """The same tensors as `unet.<layer>.lora_A.weight`, `text_encoder.text_model.<layer>.lora_B.weight`;
    eight-bit ones as float32.
    """
    out = {}
    for whole, pair in pairs.items():
        component, _, layer = whole.partition(".")
        for factor, name in (("A", pair.down), ("B", pair.up)):
            tensor = tensors[name]
            wide = tensor if tensor.dtype.itemsize > 1 else tensor.float()
            out[lora.tensor_name(component, layer, factor)] = wide
    return out


def factors_of(
    tensors: Mapping[str, Tensor], config: Mapping[str, Any]
) -> dict[str, tuple[Tensor, Tensor, float]]:
    """module -> (down, up, scale), by diffusers' names; the scale is that of the file's own settings."""
    pairs = read(tensors, {ADAPTER_SETTINGS: json.dumps(config)}) if tensors else {}
    return {layer: (tensors[pair.down], tensors[pair.up], pair.scale) for layer, pair in pairs.items()}


def difference(down: Tensor, up: Tensor, shape: torch.Size) -> Tensor:
    """up . down as a weight of `shape`; convolutions are flattened to matrices first. float32."""
    return (up.float().flatten(1) @ down.float().flatten(1)).reshape(shape)


@contextmanager
def holding(unet: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside, the named layers have these weights; afterwards those they had, to the last bit.

    Such a layer computes in float32: in the model's own half precision a small difference from what it had
    would be rounded away.
    """
    named = {
        n.replace(".base_layer", ""): m
        for n, m in unet.named_modules()
        if isinstance(m, nn.Linear | nn.Conv2d)
    }
    layers = {n: named[n] for n in weights}
    was = [(p, p.data) for layer in layers.values() for p in layer.parameters(recurse=False)]
    hooks = list[Any]()
    for n, layer in layers.items():
        dtype = layer.weight.dtype
        for p in layer.parameters(recurse=False):
            p.data = p.data.float()
        layer.weight.data = weights[n].to(layer.weight)
        if dtype != torch.float32:
            hooks.append(layer.register_forward_pre_hook(lambda _, args: (args[0].float(), *args[1:])))
            hooks.append(layer.register_forward_hook(lambda _, __, out, dtype=dtype: out.to(dtype)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for p, data in was:
            p.data = data


@contextmanager
def folded(unet: nn.Module, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> Iterator[None]:
    """Inside, the LoRA is part of the U-Net's weights, as if the model had always had them; afterwards they
    are back to the last bit.
    """
    new: dict[str, Tensor] = {}
    for module, (down, up, scale) in factors_of(tensors, config).items():
        name = module.removeprefix("unet.")
        weight = unet.get_submodule(name).weight
        assert isinstance(weight, Tensor)
        new[name] = weight.detach().float() + (scale * difference(down, up, weight.shape)).to(weight.device)
    with holding(unet, new):
        yield
