"""Inception-v3 as the first FID was computed with, by torch-fidelity: a picture's 2048 features."""

import hashlib
import io
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from expunge.core.errors import CoreError
from expunge.core.evaluation.judges.remembered import Remembered
from expunge.core.evaluation.judges.weights import Images, weights_digest

WEIGHTS = "weights-inception-2015-12-05-6726825d.pth"
URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{WEIGHTS}"
SHA256 = "6726825d"  # the digest's beginning, which is part of the name


@dataclass(frozen=True)
class Inception:
    """Turns pictures into features; `model` resizes and normalises them as the first FID did."""

    name: str
    model: Any
    digest: str
    device: str
    seen: Remembered = field(default_factory=Remembered, compare=False, repr=False)

    @torch.inference_mode()
    def features(self, images: Images) -> Tensor:
        """(N, H, W, 3) uint8 -> (N, 2048). A picture that was seen before costs nothing."""

        def judge(new: Images) -> Tensor:
            pixels = torch.from_numpy(np.ascontiguousarray(new)).permute(0, 3, 1, 2)
            found: Tensor = self.model(pixels.to(self.device))[0].float().cpu()
            return found

        return self.seen.of_images(images, judge)


def weights_file() -> Path:
    """Where the weights are looked for: torch hub's cache. They are not downloaded during a job."""
    return Path(torch.hub.get_dir()) / "checkpoints" / WEIGHTS


def load_inception(folder: Path | None = None, device: str = "cpu") -> Inception:
    """With the weights of a folder's model.safetensors; else, or of None, with those in torch hub's cache.

    Raises: CoreError where the weights or torch-fidelity are not here.
    """
    if find_spec("torch_fidelity") is None:
        raise CoreError("judge_unavailable", "the package 'torch-fidelity' is not installed")
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    # The library would unpickle its file, so it is handed weights that were read without
    weights = io.BytesIO()
    torch.save(read_weights(folder), weights)
    weights.seek(0)
    model = FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=weights)
    return Inception("inception-v3-compat", model.eval().to(device), weights_digest(model), device)


def read_weights(folder: Path | None) -> dict[str, Tensor]:
    """The network's tensors by name. Raises: CoreError where there are none, or others than published."""
    own = folder / "model.safetensors" if folder is not None else None
    if own is not None and own.is_file():
        own_tensors: dict[str, Tensor] = load_file(own)
        return own_tensors
    file = weights_file()
    if not file.exists():
        raise CoreError(
            "judge_unavailable", f"Inception's weights are not in torch hub's cache: put {URL} there"
        )
    if not hashlib.sha256(file.read_bytes()).hexdigest().startswith(SHA256):
        raise CoreError(
            "judge_unavailable",
            f"{file.name} in torch hub's cache is not the published file: put {URL} there",
        )
    # From the cache, as torchvision reads its own: tensors alone, no pickled code
    found: dict[str, Tensor] = torch.hub.load_state_dict_from_url(URL, weights_only=True, progress=False)
    return found
