"""Stable Diffusion XL: a U-Net that reads the states of two CLIP text encoders side by side, and beside them
the second's pooled vector and the picture's sizes (Podell et al. 2023, arXiv 2307.01952, sections 2.1-2.2).
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from expunge.core.layout_checks import XL
from expunge.core.models.clip_pair import ClipPair
from expunge.core.models.stable_diffusion import StableDiffusion
from expunge.core.models.text import Text
from expunge.core.published import CUSTOM_XL, XL_BASE

WIDTHS = (320, 640, 1280)


class StableDiffusionXL(StableDiffusion):
    """A `Denoiser` through the stock pipeline of diffusers. Pictures are drawn at the model's own size, not
    cropped. Its text encoders wear no adapter of ours.
    """

    family, stock = "stable_diffusion_xl", XL
    parts = ("unet", "vae", "text_encoder", "text_encoder_2")
    upcasts = True

    def __init__(self, pipe: Any, folder: Path | None = None, source: str = "") -> None:
        super().__init__(pipe, folder, source)
        side = self.picture_side
        # original size, crop, target size: as the pipeline has them by default
        self.sizes = torch.tensor([[side, side, 0, 0, side, side]], device=self.device)

    def reader(self, pipe: Any) -> ClipPair:
        return ClipPair(
            (pipe.tokenizer, pipe.text_encoder), (pipe.tokenizer_2, pipe.text_encoder_2), pipe.device
        )

    @property
    def architecture(self) -> str:
        """In ModelSpec's words, as for Stable Diffusion."""
        config = self.unet.config
        of_published_size = tuple(config.block_out_channels) == WIDTHS and config.cross_attention_dim == 2048
        return XL_BASE if of_published_size else CUSTOM_XL

    def unconditional(self) -> Text:
        """Zeros, where the model was taught that no prompt is zeros; else the empty prompt."""
        empty = self.encode([""])
        if not self.pipe.config.force_zeros_for_empty_prompt:
            return empty
        assert empty.pooled is not None
        return Text(torch.zeros_like(empty.states), torch.zeros_like(empty.pooled))

    def conditions(self, text: Text) -> dict[str, Any]:
        assert text.pooled is not None
        sizes = self.sizes.expand(len(text), -1)
        added = {"text_embeds": text.pooled.to(self.dtype), "time_ids": sizes.to(self.dtype)}
        return super().conditions(text) | {"added_cond_kwargs": added}

    def asked(self, text: Text, empty: Text) -> dict[str, Tensor]:
        assert text.pooled is not None
        assert empty.pooled is not None
        return super().asked(text, empty) | {
            "pooled_prompt_embeds": text.pooled.to(self.dtype),
            "negative_pooled_prompt_embeds": empty.pooled.to(self.dtype),
        }
