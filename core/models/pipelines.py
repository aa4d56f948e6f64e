"""The stock pipelines of diffusers that models are loaded as, and as which they are delivered."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import (
    AutoencoderKL,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import load_file
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from expunge.core.delta_format.mask import is_mask
from expunge.core.errors import CoreError
from expunge.core.layout_checks import INDEX, XL
from expunge.core.layouts import Layout
from expunge.core.memory import out_of_memory
from expunge.core.models import masks

TYPES: dict[str, Any] = {
    "unet": UNet2DConditionModel,
    "vae": AutoencoderKL,
    "text_encoder": CLIPTextModel,
    "text_encoder_2": CLIPTextModelWithProjection,
}


def load_pipeline(layout: Layout, dtype: torch.dtype) -> Any:
    """The stock pipeline, on the CPU, from its parts, each read as the variant that the layout says.

    Raises: CoreError where the files do not load, or lack a tensor.
    """
    folder = str(layout.folder)
    # Whatever a library raises over a file that is not what its name says ends as one error of ours; a broken
    # tokenizer raises a bare Exception.
    try:
        parts: dict[str, Any] = {}
        for part, variant in layout.variants.items():
            parts[part], found = TYPES[part].from_pretrained(
                folder,
                subfolder=part,
                variant=variant,
                use_safetensors=True,
                dtype=dtype,
                output_loading_info=True,
            )
            check_complete(part, found["missing_keys"])
            if part.startswith("text_encoder"):
                name = part.replace("text_encoder", "tokenizer")
                tokenizer = CLIPTokenizer.from_pretrained(folder, subfolder=name)
                tokenizer.model_max_length = min(
                    tokenizer.model_max_length, parts[part].config.max_position_embeddings
                )
                parts[name] = tokenizer
        parts["scheduler"] = getattr(diffusers, layout.scheduler).from_pretrained(
            folder, subfolder="scheduler"
        )
    except Exception as e:
        if isinstance(e, CoreError) or out_of_memory(e):
            raise
        why = (str(e).strip().splitlines() or [type(e).__name__])[0][:300]
        raise CoreError(
            "model_broken",
            f"the model's files are there, but do not load ({why}): fetch or save them again",
            field="model",
        ) from e
    if layout.pipeline == XL:
        index = json.loads((layout.folder / INDEX).read_text(encoding="utf-8"))
        return StableDiffusionXLPipeline(
            **parts,
            force_zeros_for_empty_prompt=bool(index.get("force_zeros_for_empty_prompt", True)),
            add_watermarker=False,
        )
    return StableDiffusionPipeline(
        **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )


def check_complete(part: str, missing: Collection[str]) -> None:
    """Refuse a part whose files lack some of its tensors: they would be random."""
    if missing:
        raise CoreError(
            "model_incomplete",
            f"{part}/ lacks {len(missing)} of its tensors, {min(missing)} for one: fetch or save it again",
            field="model",
        )


def fused_pipeline(layout: Layout, delta: Path) -> Any:
    """The stock pipeline, in float32, with a delta's file merged into its weights."""
    pipe = load_pipeline(layout, torch.float32)
    tensors = load_file(delta)
    if is_mask(tensors):
        masks.fold(pipe.unet, tensors)
    else:
        pipe.load_lora_weights(str(delta))
        pipe.fuse_lora()
        pipe.unload_lora_weights()
    return pipe
