"""Names of a Stable Diffusion 1.x, 2.x or XL checkpoint's tensors as its authors gave them (CompVis; OpenCLIP
for the text encoder of 2.x and the second of XL), which a checkpoint in one file has; and diffusers' names of
the same. Imports no torch.
"""

import re
from collections.abc import Collection, Iterable, Mapping

UNET, VAE = "model.diffusion_model.", "first_stage_model."
CLIP, OPEN_CLIP = "cond_stage_model.transformer.text_model.", "cond_stage_model.model."
XL_CLIP = "conditioner.embedders.0.transformer.text_model."
XL_OPEN_CLIP = "conditioner.embedders.1.model."
PROJECTION = ("text_projection.weight", "text_projection")  # diffusers' and OpenCLIP's, which is transposed

OUTSIDE = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
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
VAE_NAMES = (
    ("encoder.down_blocks.{}.resnets.", "encoder.down.{}.block."),
    ("encoder.down_blocks.{}.downsamplers.0.", "encoder.down.{}.downsample."),
    ("decoder.up_blocks.{}.resnets.", "decoder.up.{}.block."),
    ("decoder.up_blocks.{}.upsamplers.0.", "decoder.up.{}.upsample."),
    ("mid_block.resnets.0.", "mid.block_1."),
    ("mid_block.resnets.1.", "mid.block_2."),
    ("mid_block.attentions.0.group_norm.", "mid.attn_1.norm."),
    ("mid_block.attentions.0.to_q.", "mid.attn_1.q."),
    ("mid_block.attentions.0.to_k.", "mid.attn_1.k."),
    ("mid_block.attentions.0.to_v.", "mid.attn_1.v."),
    ("mid_block.attentions.0.to_out.0.", "mid.attn_1.proj_out."),
    ("conv_shortcut.", "nin_shortcut."),
    ("conv_norm_out.", "norm_out."),
)
"""Parts of names, diffusers' and CompVis's, which counts the decoder's blocks from the end."""
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


def unet_name(name: str, blocks: Mapping[str, str]) -> str | None:
    """A tensor's name in the other spelling, by the names of blocks in both (`unet_places` or `unet_back`);
    None where it has none there.
    """
    block = max((b for b in blocks if name.startswith(f"{b}.")), key=len, default=None)
    if block is None:
        return None
    inner, other = name.removeprefix(f"{block}."), blocks[block]
    if ".resnets." in f"{block} {other}":
        layer, _, last = inner.rpartition(".")
        known = RESNET | {new: old for old, new in RESNET.items()}
        if layer not in known:
            return None
        inner = f"{known[layer]}.{last}"
    return f"{other}.{inner}"


def vae_name(name: str, depth: int, *, back: bool = False) -> str:
    """CompVis's name of a tensor of the VAE; back: diffusers' of CompVis's. depth: blocks of its decoder."""
    for pair in VAE_NAMES:
        old, new = reversed(pair) if back else pair
        match = re.search(re.escape(old).replace(r"\{\}", r"(\d+)"), name)
        if match:
            n = int(match[1]) if match.groups() else 0
            n = depth - 1 - n if old.startswith("decoder.") else n
            name = name[: match.start()] + new.format(n) + name[match.end() :]
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
