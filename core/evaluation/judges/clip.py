"""open_clip models, from a local folder or by name."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from expunge.core.errors import CoreError
from expunge.core.evaluation.judges.remembered import Remembered
from expunge.core.evaluation.judges.weights import Images, prepare, reason, weights_digest

VIT_B_32 = ("ViT-B-32", "openai")  # the papers' judge: of OpenAI's weights, with OpenAI's activation


@dataclass(frozen=True)
class Clip:
    """Says how well a picture and a text agree."""

    name: str
    model: Any
    transform: Callable[[Image.Image], Tensor]
    tokenize: Callable[[list[str]], Tensor]
    digest: str
    device: str

    seen: Remembered = field(default_factory=Remembered, compare=False, repr=False)

    @torch.inference_mode()
    def image_features(self, images: Images) -> Tensor:
        """(N, H, W, 3) uint8 -> (N, D), of unit length. A picture that was seen before costs nothing."""

        def judge(new: Images) -> Tensor:
            pixels = prepare(self.transform, new).to(self.device)
            found: Tensor = self.model.encode_image(pixels, normalize=True).float().cpu()
            return found

        return self.seen.of_images(images, judge)

    @torch.inference_mode()
    def text_features(self, texts: list[str]) -> Tensor:
        """(N, D), of unit length; a text that was read before costs nothing."""

        def judge(rows: list[int]) -> Tensor:
            tokens = self.tokenize([texts[i] for i in rows]).to(self.device)
            found: Tensor = self.model.encode_text(tokens, normalize=True).float().cpu()
            return found

        return self.seen.of([text.encode() for text in texts], judge)

    def cosine(self, images: Images, texts: list[str]) -> np.ndarray[Any, Any]:
        """Cosine similarity of picture i and text i, (N,)."""
        return (self.image_features(images) * self.text_features(texts)).sum(-1).numpy()

    def similarities(self, images: Images, texts: list[str]) -> Tensor:
        """Cosine similarity of every picture and every text, (N, T)."""
        return self.image_features(images) @ self.text_features(texts).T


def load_clip(source: str | Path | tuple[str, str], device: str = "cpu") -> Clip:
    """An open_clip model: a folder with open_clip_config.json and its safetensors, or (architecture,
    pretrained tag).
    """
    import open_clip  # here, as it brings timm

    name, pretrained = source if isinstance(source, tuple) else (f"local-dir:{source}", None)
    if not isinstance(source, tuple) and not (Path(source) / "open_clip_config.json").is_file():
        raise CoreError(
            "judge_unavailable", f"the CLIP judge's folder '{Path(source).name}' has no open_clip_config.json"
        )
    try:
        # Some weights were trained with another activation than their architecture has by name
        trained = open_clip.get_pretrained_cfg(name, pretrained) if pretrained else {}
        model, _, transform = open_clip.create_model_and_transforms(
            name, pretrained=pretrained, device=device, force_quick_gelu=trained.get("quick_gelu", False)
        )
        tokenizer = open_clip.get_tokenizer(name)
    except Exception as e:
        raise CoreError(
            "judge_unavailable", f"the CLIP model '{name.rsplit('/', 1)[-1]}' cannot be had: {reason(e)}"
        ) from e
    label = f"{name}/{pretrained}" if pretrained else f"open_clip {Path(str(source)).name}"
    return Clip(label, model.eval(), transform, tokenizer, weights_digest(model), device)
