"""Names of a Stable Diffusion 1.x or 2.x checkpoint's tensors as its authors gave them (CompVis; OpenCLIP for
2.x's text encoder), which a checkpoint in one file has; and diffusers' names of the same. Imports no torch.
"""

import re
from collections.abc import Collection, Iterable, Mapping

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
QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")  # one matrix in OpenCLIP, in this order
OPEN_CLIP_OUTSIDE = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
}


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


def unet_back(names: Collection[str]) -> dict[str, str]:
    """diffusers' name of each block of CompVis's U-Net, whose tensors have these names: the inverse of
    `unet_places`.
    """
    found = {new: old for old, new in OUTSIDE.items()}
    blocks = {".".join(name.split(".")[:3]) for name in names}

    def numbered(side: str) -> list[int]:
        return sorted({int(b.split(".")[1]) for b in blocks if b.startswith(f"{side}.")})

    block = place = 0
    for n in numbered("input_blocks")[1:]:  # the first is conv_in
        own = f"input_blocks.{n}"
        if any(name.startswith(f"{own}.0.op.") for name in names):
            found[f"{own}.0.op"] = f"down_blocks.{block}.downsamplers.0.conv"
            block, place = block + 1, 0
            continue
        found[f"{own}.0"] = f"down_blocks.{block}.resnets.{place}"
        found[f"{own}.1"] = f"down_blocks.{block}.attentions.{place}"
        place += 1

    block = place = 0
    for n in numbered("output_blocks"):
        own = f"output_blocks.{n}"
        behind = next((k for k in (1, 2) if f"{own}.{k}.conv.weight" in names), None)
        found[f"{own}.0"] = f"up_blocks.{block}.resnets.{place}"
        if behind != 1:
            found[f"{own}.1"] = f"up_blocks.{block}.attentions.{place}"
        place += 1
        if behind is not None:
            found[f"{own}.{behind}"] = f"up_blocks.{block}.upsamplers.0"
            block, place = block + 1, 0
    return found


def unet_name_back(name: str, blocks: Mapping[str, str]) -> str | None:
    """diffusers' name of a tensor of CompVis's U-Net; None where it has none."""
    block = max((b for b in blocks if name.startswith(f"{b}.")), key=len, default=None)
    if block is None:
        return None
    inner = name.removeprefix(f"{block}.")
    if ".resnets." in blocks[block]:
        layer, _, last = inner.rpartition(".")
        back = {new: old for old, new in RESNET.items()}
        if layer not in back:
            return None
        inner = f"{back[layer]}.{last}"
    return f"{blocks[block]}.{inner}"


def vae_name_back(name: str, depth: int) -> str:
    """diffusers' name of a tensor of CompVis's VAE."""
    name = re.sub(r"encoder\.down\.(\d+)\.block\.", r"encoder.down_blocks.\1.resnets.", name)
    name = re.sub(r"encoder\.down\.(\d+)\.downsample\.", r"encoder.down_blocks.\1.downsamplers.0.", name)

    def counted(match: re.Match[str]) -> str:
        what = {"block.": "resnets.", "upsample.": "upsamplers.0."}[match[2]]
        return f"decoder.up_blocks.{depth - 1 - int(match[1])}.{what}"

    name = re.sub(r"decoder\.up\.(\d+)\.(block\.|upsample\.)", counted, name)
    name = re.sub(r"mid\.block_(\d)\.", lambda m: f"mid_block.resnets.{int(m[1]) - 1}.", name)
    name = name.replace("nin_shortcut.", "conv_shortcut.").replace("norm_out.", "conv_norm_out.")
    before, attention, inner = name.partition("mid.attn_1.")
    if attention:
        layer, _, last = inner.rpartition(".")
        back = {new: old for old, new in VAE_ATTENTION.items()}
        return f"{before}mid_block.attentions.0.{back.get(layer, layer)}.{last}"
    return name


def open_clip_name(name: str) -> str | None:
    """OpenCLIP's name of a tensor of a text encoder; None of queries, keys and values, which are parts of
    attn.in_proj_weight and in_proj_bias.
    """
    if name in OPEN_CLIP_OUTSIDE:
        return OPEN_CLIP_OUTSIDE[name]
    match = re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", name)
    if match is None or match[2] not in OPEN_CLIP_LAYER:
        return None
    return f"transformer.resblocks.{match[1]}.{OPEN_CLIP_LAYER[match[2]]}.{match[3]}"
