"""A checkpoint in one file: the tensors of U-Net, VAE and text encoders in their authors' names, as A1111,
ComfyUI and others load it.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from expunge.core import original_names as names

OPEN_CLIP_WIDTH = 1024  # of the text encoder of Stable Diffusion 2.x, which is OpenCLIP's
Parts = Mapping[str, Mapping[str, Tensor]]


def renamed(parts: Parts) -> dict[str, Tensor] | None:
    """One checkpoint's tensors from those of unet, vae and text encoders, in diffusers' names; None of U-Nets
    with blocks that its authors' code does not have.
    """
    unet, vae, text = parts["unet"], parts["vae"], bare(parts["text_encoder"])
    places = names.unet_places(unet)
    found = {names.unet_name(name, places): tensor for name, tensor in unet.items()}
    if None in found:
        return None
    out = {f"{names.UNET}{name}": tensor for name, tensor in found.items()}
    depth = 1 + max(int(i) for name in vae for i in re.findall(r"^decoder\.up_blocks\.(\d+)", name))
    for name, tensor in vae.items():
        named = names.vae_name(name, depth)
        # CompVis's attention is made of 1 x 1 convolutions
        is_linear = ".attn_1." in named and tensor.dim() == 2
        out[names.VAE + named] = tensor[:, :, None, None] if is_linear else tensor
    if "text_encoder_2" in parts:
        second, (theirs, ours) = bare(parts["text_encoder_2"]), names.PROJECTION
        out |= {names.XL_CLIP + name: tensor for name, tensor in text.items()}
        out[names.XL_OPEN_CLIP + ours] = second.pop(theirs).T.contiguous()
        return out | open_clip_tensors(second, names.XL_OPEN_CLIP)
    if len(text["final_layer_norm.weight"]) == OPEN_CLIP_WIDTH:
        return out | open_clip_tensors(text)
    return out | {names.CLIP + name: tensor for name, tensor in text.items()}


def bare(text: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A text encoder's tensors without the prefix that its layers have."""
    return {name.removeprefix("text_model."): tensor for name, tensor in text.items()}


def open_clip_tensors(text: Mapping[str, Tensor], prefix: str = names.OPEN_CLIP) -> dict[str, Tensor]:
    """OpenCLIP's tensors of a CLIP text encoder, whose queries, keys and values are one matrix."""
    out = dict[str, Tensor]()
    for name, tensor in text.items():
        if (new := names.open_clip_name(name)) is not None:
            out[prefix + new] = tensor
        elif match := re.fullmatch(r"(encoder\.layers\.(\d+)\.)self_attn\.q_proj\.(weight|bias)", name):
            three = [text[f"{match[1]}{part}.{match[3]}"] for part in names.QKV]
            out[f"{prefix}transformer.resblocks.{match[2]}.attn.in_proj_{match[3]}"] = torch.cat(three)
    return out
