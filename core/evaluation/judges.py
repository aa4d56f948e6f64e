"""The judges: timm classifiers and open_clip models, from a local folder or by name through the same code."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from expunge.core.errors import CoreError
from expunge.core.memory import in_batches
from expunge.core.sources import folder_of, parse

BUNDLED = Path(__file__).parents[1] / "bundled" / "judges"
RESNET50, VIT_B_32 = "resnet50.tv2_in1k", ("ViT-B-32", "openai")  # the papers' judges
Images = np.ndarray[Any, np.dtype[np.uint8]]
BATCH = 64


@dataclass(frozen=True)
class Classifier:
    """Names what a picture shows; `classes` are in the order of its logits."""

    name: str
    classes: list[str]
    model: nn.Module
    transform: Callable[[Image.Image], Tensor]
    digest: str
    device: str

    @torch.inference_mode()
    def logits(self, images: Images) -> Tensor:
        """(N, H, W, 3) uint8 -> (N, classes)."""

        def judge(start: int, end: int) -> Tensor:
            found: Tensor = (
                self.model(prepare(self.transform, images[start:end]).to(self.device)).float().cpu()
            )
            return found

        return torch.cat(in_batches(len(images), BATCH, judge))


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


@dataclass(frozen=True)
class Judges:
    """Who judges a model's pictures; a judge that cannot be had is None and its reason is in `missing`."""

    concept: Classifier | None
    style: Classifier | None
    clip: Clip | None
    missing: dict[str, str] = field(default_factory=dict)

    def digests(self) -> dict[str, str]:
        return {
            f"{kind} ({judge.name})": judge.digest
            for kind, judge in (("concept", self.concept), ("style", self.style), ("clip", self.clip))
            if judge
        }


def prepare(transform: Callable[[Image.Image], Tensor], images: Images) -> Tensor:
    return torch.stack([transform(Image.fromarray(image)) for image in images])


def weights_digest(model: nn.Module) -> str:
    """sha256 over the tensors' names, types and bytes, whatever file they came from."""
    total = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        total.update(
            f"{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode()
            + tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        )
    return total.hexdigest()


def imagenet_classes() -> list[str]:
    from torchvision.models import ResNet50_Weights

    return list(ResNet50_Weights.DEFAULT.meta["categories"])


def load_classifier(source: str | Path, device: str = "cpu") -> Classifier:
    """A timm classifier: a folder with config.json and model.safetensors, or a timm name with ImageNet's
    classes.
    """
    import timm  # here, as in load_model: it takes as long to import as half of torch
    from timm.data.config import resolve_data_config
    from timm.data.transforms_factory import create_transform

    folder = Path(source)
    if folder.is_dir():
        config = json.loads((folder / "config.json").read_text())
        classes, size = config["classes"], config["input_size"]
        overlay = {
            "input_size": (3, size, size),
            "mean": config["mean"],
            "std": config["std"],
            "crop_pct": 1.0,
            "num_classes": len(classes),
        }
        model = timm.create_model(
            config["architecture"],
            num_classes=len(classes),
            pretrained_cfg_overlay=overlay,
            checkpoint_path=folder / "model.safetensors",
        )
    else:
        try:
            model, classes = timm.create_model(str(source), pretrained=True), imagenet_classes()
        except Exception as e:
            raise CoreError(
                "judge_unavailable", f"the classifier '{source}' cannot be had: {reason(e)}"
            ) from e
    config_of_model = resolve_data_config({}, model=model)  # type: ignore[no-untyped-call]
    transform = create_transform(**config_of_model, is_training=False)
    digest = weights_digest(model)
    return Classifier(
        folder.name if folder.is_dir() else str(source),
        classes,
        model.eval().to(device),
        transform,
        digest,
        device,
    )


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


def reason(error: Exception) -> str:
    """The first line of an error, without the trace."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def judges_for(source: str | Path, device: str = "cpu") -> Judges:
    """The bundled judges for a bundled model, a folder's own `judges/` if it brings some, else the papers'
    ResNet-50 and ViT-B/32.
    """
    home = folder_of(source)
    own = home / "judges" if home else BUNDLED
    folder = BUNDLED if parse(source).kind == "bundled" else own if home and own.is_dir() else None
    wanted: dict[str, Callable[[], Any]] = {
        "concept": lambda: load_classifier(folder / "concept" if folder else RESNET50, device),
        "clip": lambda: load_clip(folder / "clip" if folder else VIT_B_32, device),
    }
    if folder and (folder / "style").is_dir():
        wanted["style"] = lambda: load_classifier(folder / "style", device)
    found: dict[str, Any] = {"concept": None, "style": None, "clip": None}
    missing = {}
    for kind, load in wanted.items():
        try:
            found[kind] = load()
        except CoreError as e:
            missing[kind] = e.message
    return Judges(**found, missing=missing)
