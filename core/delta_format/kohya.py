"""kohya's names of a LoRA's tensors, which A1111, ComfyUI and most trainers' files have: `lora_unet_<layer>`
or `lora_te_text_model_<layer>`, the dots of the layer's name as underscores, then `.lora_down.weight` (A),
`.lora_up.weight` (B) or `.alpha`.
"""

import re

from expunge.core.delta_format.errors import BadDelta, Fault

PREFIXES = {"unet": "lora_unet_", "text_encoder": "lora_te_text_model_"}
ROLES = {"A": "lora_down.weight", "B": "lora_up.weight", "alpha": "alpha"}
PARTS = (
    *("down_blocks", "mid_block", "up_blocks", "attentions", "resnets", "downsamplers", "upsamplers"),
    *("transformer_blocks", "attn1", "attn2", "to_q", "to_k", "to_v", "to_out", "ff", "net", "proj"),
    *("proj_in", "proj_out", "conv1", "conv2", "conv_shortcut", "time_emb_proj", "conv"),
    *("conv_in", "conv_out", "time_embedding", "add_embedding", "linear_1", "linear_2"),
    *("encoder", "layers", "self_attn", "q_proj", "k_proj", "v_proj", "out_proj", "mlp", "fc1", "fc2"),
)
"""What the names of a U-Net's and a CLIP text encoder's layers are made of, beside numbers."""
PART = re.compile(rf"({'|'.join(sorted(PARTS, key=len, reverse=True))}|\d+)(?:_|$)")
BASES = {
    "stable-diffusion-v1": "sd_v1",
    "stable-diffusion-v2-512": "sd_v2",
    "stable-diffusion-v2-768-v": "sd_v2_v",
    "stable-diffusion-xl-v1-base": "sdxl_base_v1-0",
}
"""kohya's names of base models, by ModelSpec's."""
OTHERS = r"lora_(te3|transformer|prior)_|lora_unet_(single|double|joint)_"
OF_XL = r"lora_(te1|te2)_|lora_unet_(input_blocks|middle_block|output_blocks|label_emb)_"
XL_REMEDY = (
    "Load it into diffusers' StableDiffusionXLPipeline, and send what save_lora_weights writes of the U-Net"
    " alone, for a Stable Diffusion XL model that 'expunge models' lists."
)
REMEDY = "Send a LoRA of one of the models that 'expunge models' lists."


def tensor_name(component: str, layer: str, role: str) -> str:
    """Of a layer's "A", "B" or "alpha"."""
    return f"{PREFIXES[component]}{layer.replace('.', '_')}.{ROLES[role]}"


def is_kohya(name: str) -> bool:
    """Whether a tensor is named in kohya's way."""
    return name.startswith(("lora_unet_", "lora_te", "lora_transformer_", "lora_prior_"))


def parse_name(name: str) -> tuple[str, str, str]:
    """(component, layer, "A" | "B" | "alpha") of a tensor's name. Raises: BadDelta."""
    if re.match(OTHERS, name):
        why = "belongs to another architecture, not to Stable Diffusion 1.x, 2.x or XL"
        raise BadDelta(Fault.TENSORS, name, why, REMEDY)
    if re.match(OF_XL, name):
        why = "is of Stable Diffusion XL's text encoders, or not named after diffusers' layers"
        raise BadDelta(Fault.TENSORS, name, why, XL_REMEDY)
    flat, _, end = name.partition(".")
    role = next((role for role, suffix in ROLES.items() if suffix == end), None)
    component = next((c for c, prefix in PREFIXES.items() if flat.startswith(prefix)), None)
    layer = None if component is None else dotted(flat.removeprefix(PREFIXES[component]))
    if component is None or layer is None or role is None:
        why = "is not a layer's lora_down, lora_up or alpha, as kohya names them after diffusers' layers"
        raise BadDelta(Fault.TENSORS, name, why, REMEDY)
    return component, layer, role


def dotted(flat: str) -> str | None:
    """A layer's name from the one with underscores; None where no layer is named so."""
    parts, end = list[str](), 0
    while match := PART.match(flat, end):
        parts, end = [*parts, match[1]], match.end()
    return ".".join(parts) if parts and end == len(flat) and not flat.endswith("_") else None
