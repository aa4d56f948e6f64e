"""A judge that a client uploaded: its settings are checked, then its tensors' shapes, then it is loaded."""

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from expunge.core.evaluation.judges.classifier import Classifier
from expunge.core.evaluation.judges.clip import Clip
from expunge.core.evaluation.judges.weights import weights_digest
from expunge.core.judge_format import BadJudge, ClipSettings, TimmSettings, read_settings


def load_uploaded(path: Path, device: str = "cpu") -> Classifier | Clip:
    """The classifier or the CLIP model of a file. Raises: BadJudge."""
    settings = read_settings(path)
    tensors = {name: t.float() if t.is_floating_point() else t for name, t in load_file(path).items()}
    if isinstance(settings, TimmSettings):
        return timm_classifier(settings, tensors, device)
    return clip_model(settings, tensors, device)


def timm_classifier(settings: TimmSettings, tensors: dict[str, torch.Tensor], device: str) -> Classifier:
    """A timm architecture by its name, with these weights."""
    import timm
    from timm.data.transforms_factory import create_transform

    if not timm.is_model(settings.architecture):
        raise BadJudge(f"has an architecture '{settings.architecture}' that this timm does not know")
    model = filled(
        lambda: timm.create_model(settings.architecture, pretrained=False, num_classes=len(settings.classes)),
        tensors,
    )
    size = settings.input_size
    transform = create_transform(
        input_size=(3, size, size),
        mean=tuple(settings.mean),
        std=tuple(settings.std),
        interpolation=settings.interpolation,
        crop_pct=settings.crop_pct,
        crop_mode=settings.crop_mode,
        is_training=False,
    )
    name, digest = f"uploaded {settings.architecture}", weights_digest(model)
    return Classifier(name, settings.classes, model.eval().to(device), transform, digest, device)


def clip_model(settings: ClipSettings, tensors: dict[str, torch.Tensor], device: str) -> Clip:
    """CLIP's own architecture, of these sizes, with these weights."""
    import open_clip
    from open_clip.transform import image_transform

    config, cleaning = settings.model_cfg, settings.preprocess_cfg
    model = filled(lambda: open_clip.CLIP(**config.model_dump(exclude_none=True)), tensors)
    transform = image_transform(
        config.vision_cfg.image_size,
        is_train=False,
        mean=tuple(cleaning.mean),
        std=tuple(cleaning.std),
        interpolation=cleaning.interpolation,
        resize_mode=cleaning.resize_mode,
        fill_color=cleaning.fill_color,
    )
    tokenizer = open_clip.SimpleTokenizer(context_length=config.text_cfg.context_length)
    return Clip(
        "uploaded open_clip", model.eval().to(device), transform, tokenizer, weights_digest(model), device
    )


def filled(build: Callable[[], nn.Module], tensors: dict[str, torch.Tensor]) -> nn.Module:
    """The network with its weights. It is laid out first without memory, so that settings that do not fit the
    file's tensors take none. Raises: BadJudge.
    """
    try:
        with torch.device("meta"):
            needed = {name: tuple(t.shape) for name, t in build().state_dict().items()}
    except (RuntimeError, ValueError, TypeError, AssertionError, AttributeError) as error:
        raise BadJudge(f"has settings that make no network: {str(error)[:200]}") from error
    for name in sorted({*needed, *tensors}):
        found = tuple(tensors[name].shape) if name in tensors else None
        if needed.get(name) != found:
            raise BadJudge(
                f"has '{name[:200]}' of shape {found or 'none'}, where its settings need"
                f" {needed.get(name, 'none')}: save the network's whole state_dict, and its own settings"
            )
    model = build()
    model.load_state_dict(tensors)
    return model
