"""Sparse masks: `unet.<layer>.pruned` (ceil(n / 8),) uint8 holds a bit for each of the layer's n weights, in
row-major order, eight to a byte, the highest first: 1 where the weight is zero. What the last byte has left
over is 0.
"""

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

SUFFIX = ".pruned"
NAME = re.compile(r"(?P<layer>unet\.[A-Za-z0-9_.]+)\.pruned")

Bits = np.ndarray[Any, np.dtype[np.bool_]]
Bytes = np.ndarray[Any, np.dtype[np.uint8]]


def is_mask(names: Iterable[str]) -> bool:
    """Whether a delta's tensors are those of a sparse mask."""
    return any(name.endswith(SUFFIX) for name in names)


def tensor_name(layer: str) -> str:
    """Of a layer of the U-Net, as the network itself names it."""
    return f"unet.{layer}{SUFFIX}"


def layer_name(tensor: str) -> str:
    """The inverse of `tensor_name`."""
    return tensor.removeprefix("unet.").removesuffix(SUFFIX)


def packed_size(shape: Sequence[int]) -> int:
    """Bytes for the bits of a weight of this shape."""
    return -(-math.prod(shape) // 8)


def spare_bits(shape: Sequence[int]) -> int:
    """The bits of the last byte that belong to no weight, set."""
    return (1 << -math.prod(shape) % 8) - 1


def pack(pruned: Bits) -> Bytes:
    """bool of any shape -> (ceil(n / 8),) uint8."""
    return np.packbits(pruned)


def unpack(packed: Bytes, shape: Sequence[int]) -> Bits:
    """The inverse: bool of `shape`."""
    return np.unpackbits(packed, count=math.prod(shape)).astype(bool).reshape(shape)
