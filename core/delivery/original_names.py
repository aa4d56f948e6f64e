"""Names of a Stable Diffusion 1.x or 2.x checkpoint's tensors as its authors gave them (CompVis; OpenCLIP for
2.x's text encoder): a checkpoint in one file, as A1111, ComfyUI and others load it, has these.
"""

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

UNET, VAE = "model.diffusion_model.", "first_stage_model."
CLIP, OPEN_CLIP = "cond_stage_model.transformer.text_model.", "cond_stage_model.model."

OUTSIDE = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
OPEN_CLIP_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
OPEN_CLIP_OUTSIDE = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
}
Parts = Mapping[str, Mapping[str, Tensor]]


def renamed(parts: Parts, open_clip: bool) -> dict[str, Tensor]:
    """One checkpoint's tensors from those of unet, vae and text_encoder, in diffusers' names.

    open_clip: whether the text encoder is OpenCLIP's (2.x).
    """
    unet, vae, text = parts["unet"], parts["vae"], parts["text_encoder"]
    places = unet_places(unet)
    out = {UNET + unet_name(name, places): tensor for name, tensor in unet.items()}
    depth = 1 + max(int(i) for name in vae for i in re.findall(r"^decoder\.up_blocks\.(\d+)", name))
    for name, tensor in vae.items():
        named = vae_name(name, depth)
        # CompVis's attention is made of 1 x 1 convolutions
        is_linear = ".attn_1." in named and tensor.dim() == 2
        out[VAE + named] = tensor[:, :, None, None] if is_linear else tensor
    bare = {name.removeprefix("text_model."): tensor for name, tensor in text.items()}
    if open_clip:
        return out | open_clip_tensors(bare)
    return out | {CLIP + name: tensor for name, tensor in bare.items()}


def unet_places(names: Iterable[str]) -> dict[str, str]:
    """Where CompVis's U-Net has each residual, attention and sampling block: it counts them through."""
    blocks = {
        match[0]
        for name in names
        if (
            match := re.match(
                r"(down|up)_blocks\.\d+\.(resnets|attentions|downsamplers|upsamplers)\.\d+", name
            )
        )
    }
    places: dict[str, str] = {}
    for side, numbered, count in (("down", "input_blocks", 1), ("up", "output_blocks", 0)):
        for i in range(len({b.split(".")[1] for b in blocks if b.startswith(side)})):
            own = f"{side}_blocks.{i}"
            for j in range(sum(b.startswith(f"{own}.resnets.") for b in blocks)):
                places[f"{own}.resnets.{j}"] = f"{numbered}.{count}.0"
                places[f"{own}.attentions.{j}"] = f"{numbered}.{count}.1"
                count += 1
            if f"{own}.downsamplers.0" in blocks:
                places[f"{own}.downsamplers.0.conv"] = f"{numbered}.{count}.0.op"
                count += 1
            behind = 2 if f"{own}.attentions.0" in blocks else 1  # in the place of its last residual block
            places[f"{own}.upsamplers.0"] = f"{numbered}.{count - 1}.{behind}"
    return OUTSIDE | places


def unet_name(name: str, places: Mapping[str, str]) -> str:
    """CompVis's name of a tensor of the U-Net."""
    block = max((b for b in places if name.startswith(f"{b}.")), key=len)
    inner = name.removeprefix(f"{block}.")
    if ".resnets." in block:
        layer, _, last = inner.rpartition(".")
        inner = f"{RESNET[layer]}.{last}"
    return f"{places[block]}.{inner}"


def vae_name(name: str, depth: int) -> str:
    """CompVis's name of a tensor of the VAE; depth: blocks of its decoder, which CompVis counts from the
    end.
    """
    name = re.sub(r"encoder\.down_blocks\.(\d+)\.resnets\.", r"encoder.down.\1.block.", name)
    name = re.sub(r"encoder\.down_blocks\.(\d+)\.downsamplers\.0\.", r"encoder.down.\1.downsample.", name)

    def counted(match: re.Match[str]) -> str:
        what = {"resnets.": "block.", "upsamplers.0.": "upsample."}[match[2]]
        return f"decoder.up.{depth - 1 - int(match[1])}.{what}"

    name = re.sub(r"decoder\.up_blocks\.(\d+)\.(resnets\.|upsamplers\.0\.)", counted, name)
    name = re.sub(r"mid_block\.resnets\.(\d)\.", lambda m: f"mid.block_{int(m[1]) + 1}.", name)
    name = name.replace("conv_shortcut.", "nin_shortcut.").replace("conv_norm_out.", "norm_out.")
    before, attention, inner = name.partition("mid_block.attentions.0.")
    if attention:
        layer, _, last = inner.rpartition(".")
        return f"{before}mid.attn_1.{VAE_ATTENTION[layer]}.{last}"
    return name


def open_clip_tensors(text: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """OpenCLIP's tensors of a CLIP text encoder, whose queries, keys and values are one matrix."""
    out = {OPEN_CLIP + new: text[old] for old, new in OPEN_CLIP_OUTSIDE.items()}
    for name in text:
        match = re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", name)
        if match is None:
            continue
        block = f"{OPEN_CLIP}transformer.resblocks.{match[1]}"
        if match[2] == "self_attn.q_proj":
            three = [text[name.replace("q_proj", f"{what}_proj")] for what in "qkv"]
            out[f"{block}.attn.in_proj_{match[3]}"] = torch.cat(three)
        elif match[2] in OPEN_CLIP_LAYER:
            out[f"{block}.{OPEN_CLIP_LAYER[match[2]]}.{match[3]}"] = text[name]
    return out
