"""LPIPS (Zhang et al., 2018) with AlexNet: how far the sanitized picture is from the base model's with the
same prompt and seed.
"""

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from expunge.core.evaluation.evidence import Evidence
from expunge.core.evaluation.judges.weights import BATCH, Images
from expunge.core.memory import in_batches

CONVENTIONS = [
    (
        "lpips: LPIPS-alex 0.1 between the base model's picture and the sanitized model's. concept null: the"
        " pictures of all preserved concepts."
    ),
]


def unavailable() -> str | None:
    """Why LPIPS cannot be computed here, or None. AlexNet's weights must be in torch hub's cache: they are
    not downloaded during a job.
    """
    if find_spec("lpips") is None:
        return "the package 'lpips' is not installed"
    from torchvision.models import AlexNet_Weights

    url = AlexNet_Weights.IMAGENET1K_V1.url
    file = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
    return None if file.exists() else f"AlexNet's weights are not in torch hub's cache: put {url} there"


@cache
def network(device: str = "cpu", random_trunk: bool = False) -> Any:
    """LPIPS-alex 0.1. With `random_trunk` it needs no AlexNet weights, and its distances are not those of
    any paper.
    """
    import lpips

    return lpips.LPIPS(net="alex", pnet_rand=random_trunk, verbose=False).eval().to(device)


@torch.inference_mode()
def distances(net: Any, a: Images, b: Images) -> np.ndarray[Any, Any]:
    """LPIPS of picture i of `a` and picture i of `b`, (N,); 0 = the same."""
    device = next(net.parameters()).device

    def scaled(x: Images) -> torch.Tensor:
        return (torch.from_numpy(np.ascontiguousarray(x)).permute(0, 3, 1, 2).float() / 127.5 - 1).to(device)

    return torch.cat(
        in_batches(len(a), BATCH, lambda i, j: net(scaled(a[i:j]), scaled(b[i:j])).flatten().cpu())
    ).numpy()


def measure(seen: Evidence) -> None:
    """How far each sanitized picture is from the base model's."""
    why = unavailable()
    if why is not None:
        seen.sheet.lacks("lpips", why)
        return
    net = network(str(seen.model.device))
    rows = seen.templates
    if len(rows):
        seen.mean_by_concept("lpips", seen.spread(distances(net, seen.base[rows], seen.sanitized[rows])))
