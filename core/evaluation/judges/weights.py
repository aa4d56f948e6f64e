"""What all judges share: how pictures reach a network, and what its weights are known by."""

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

Images = np.ndarray[Any, np.dtype[np.uint8]]
Rows = np.ndarray[Any, np.dtype[np.bool_]]
BATCH = 64


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


def reason(error: Exception) -> str:
    """The first line of an error, without the trace."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
