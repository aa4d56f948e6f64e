"""safetensors bytes that repeat: the library writes metadata in random order, this writes it sorted."""

import json
from collections.abc import Mapping

from safetensors.torch import save
from torch import Tensor


def canonical(data: bytes) -> bytes:
    """The same file with its header's keys sorted; offsets and tensor bytes stay."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    if "__metadata__" in header:
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), sort_keys=True).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def to_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """A .safetensors file as bytes; equal input gives equal bytes."""
    return canonical(save({k: v.detach().cpu().contiguous() for k, v in sorted(tensors.items())}, metadata=dict(metadata)))
