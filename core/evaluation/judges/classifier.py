"""timm classifiers, from a local folder or by name."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from expunge.core.errors import CoreError
from expunge.core.evaluation.judges import none_of_these
from expunge.core.evaluation.judges.none_of_these import NoneOfThese
from expunge.core.evaluation.judges.remembered import Remembered
from expunge.core.evaluation.judges.weights import Images, Rows, prepare, reason, weights_digest

RESNET50 = "resnet50.tv2_in1k"  # the papers' judge


@dataclass(frozen=True)
class Classifier:
    """Names what a picture shows; `classes` are in the order of its logits."""

    name: str
    classes: list[str]
    model: nn.Module
    transform: Callable[[Image.Image], Tensor]
    digest: str
    device: str
    none: NoneOfThese | None = None

    seen: Remembered = field(default_factory=Remembered, compare=False, repr=False)

    @torch.inference_mode()
    def read(self, images: Images) -> Tensor:
        """(N, H, W, 3) uint8 -> (N, classes), or (N, classes + 1) with the probability of none, of one pass.
        A picture that was seen before costs nothing.
        """

        def judge(new: Images) -> Tensor:
            pixels = prepare(self.transform, new).to(self.device)
            if self.none is None:
                found: Tensor = self.model(pixels).float().cpu()
                return found
            logits, looked = none_of_these.look(self.model, pixels)
            return torch.cat([logits.float(), self.none(looked)[:, None]], 1).cpu()

        return self.seen.of_images(images, judge)

    def logits(self, images: Images) -> Tensor:
        """(N, H, W, 3) uint8 -> (N, classes)."""
        return self.read(images) if self.none is None else self.read(images)[:, :-1]

    def sees_none(self, images: Images) -> Rows | None:
        """Whether each picture shows none of the classes, (N,); None where the judge must name one."""
        if self.none is None:
            return None
        found: Rows = (self.read(images)[:, -1] >= self.none.threshold).numpy()
        return found


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
    head = None
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
        head = none_of_these.load(folder)
    else:
        try:
            model, classes = timm.create_model(str(source), pretrained=True), imagenet_classes()
        except Exception as e:
            raise CoreError(
                "judge_unavailable", f"the classifier '{source}' cannot be had: {reason(e)}"
            ) from e
    # Weights by name at the size that they are measured at: RESNET50 was trained on 176 px and is run on 224
    at_test_size = not folder.is_dir()
    config_of_model = resolve_data_config({}, model=model, use_test_size=at_test_size)  # type: ignore[no-untyped-call]
    transform = create_transform(**config_of_model, is_training=False)
    digest = weights_digest(model) if head is None else weights_digest(nn.ModuleList([model, head]))
    return Classifier(
        folder.name if folder.is_dir() else str(source),
        classes,
        model.eval().to(device),
        transform,
        digest,
        device,
        head.to(device) if head is not None else None,
    )
