"""open_clip models, from a local folder or by name."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from expunge.core.errors import CoreError
from expunge.core.evaluation.judges.weights import BATCH, Images, prepare, reason, weights_digest
from expunge.core.memory import in_batches

VIT_B_32 = ("ViT-B-32", "openai")  # the papers' judge


@dataclass(frozen=True)
class Clip:
    """Says how well a picture and a text agree."""

    name: str
    model: Any
    transform: Callable[[Image.Image], Tensor]
    tokenize: Callable[[list[str]], Tensor]
    digest: str
    device: str

    @torch.inference_mode()
    def cosine(self, images: Images, texts: list[str]) -> np.ndarray[Any, Any]:
        """Cosine similarity of picture i and text i, (N,)."""

        def compare(start: int, end: int) -> Tensor:
            picture = self.model.encode_image(
                prepare(self.transform, images[start:end]).to(self.device), normalize=True
            )
            text = self.model.encode_text(self.tokenize(texts[start:end]).to(self.device), normalize=True)
            found: Tensor = (picture * text).sum(-1).float().cpu()
            return found

        return torch.cat(in_batches(len(images), BATCH, compare)).numpy()

    @torch.inference_mode()
    def similarities(self, images: Images, texts: list[str]) -> Tensor:
        """Cosine similarity of every picture and every text, (N, T)."""
        encoded = self.model.encode_text(self.tokenize(texts).to(self.device), normalize=True)

        def compare(start: int, end: int) -> Tensor:
            pixels = prepare(self.transform, images[start:end]).to(self.device)
            found: Tensor = (self.model.encode_image(pixels, normalize=True) @ encoded.T).float().cpu()
            return found

        return torch.cat(in_batches(len(images), BATCH, compare))


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
        model, _, transform = open_clip.create_model_and_transforms(
            name, pretrained=pretrained, device=device
        )
        tokenizer = open_clip.get_tokenizer(name)
    except Exception as e:
        raise CoreError(
            "judge_unavailable", f"the CLIP model '{name.rsplit('/', 1)[-1]}' cannot be had: {reason(e)}"
        ) from e
    label = f"{name}/{pretrained}" if pretrained else f"open_clip {Path(str(source)).name}"
    return Clip(label, model.eval(), transform, tokenizer, weights_digest(model), device)
