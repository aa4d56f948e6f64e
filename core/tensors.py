"""safetensors files whose bytes repeat: the library writes its metadata in a random order, this sorts it."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from expunge.core import safetensors_file
from expunge.core.safetensors_file import Described

DTYPES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
DTYPES |= {torch.int64: "I64", torch.int32: "I32", torch.uint8: "U8", torch.bool: "BOOL"}


def serialise(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """The .safetensors bytes; the same tensors and metadata give the same sha256, in any process."""
    raw: bytes = save({name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)})
    end = 8 + int.from_bytes(raw[:8], "little")
    header = {"__metadata__": dict(sorted(metadata.items()))} | dict(sorted(json.loads(raw[8:end]).items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the data must start on a multiple of 8
    return len(text).to_bytes(8, "little") + text + raw[end:]


def write(file: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a .safetensors file, a tensor after the other: for what would not fit into memory twice. The same
    tensors and metadata give the same bytes.
    """
    described = {
        name: Described(DTYPES[tensor.dtype], tuple(tensor.shape), tensor.numel() * tensor.element_size())
        for name, tensor in tensors.items()
    }

    def content(name: str) -> list[memoryview]:
        flat = tensors[name].detach().cpu().contiguous().flatten()
        return [flat.view(torch.uint8).numpy().data]

    safetensors_file.write(file, described, metadata, content)


def not_finite(file: Path) -> str | None:
    """The first tensor of a .safetensors file that holds NaN or infinity, or None; read one at a time.

    SafetensorError.
    """
    with safe_open(file, "pt") as opened:
        return next(
            (name for name in opened.keys() if not bool(opened.get_tensor(name).isfinite().all())), None
        )
