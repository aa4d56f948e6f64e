"""Writing safetensors files a tensor after the other, for what would not fit into memory twice. Imports no
torch.
"""

import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WIDE = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2}  # bytes of a number; of others 1


@dataclass(frozen=True)
class Described:
    """A tensor's type, in safetensors' words, its shape and how many bytes it has."""

    dtype: str
    shape: tuple[int, ...]
    size: int


def write(
    file: Path,
    tensors: Mapping[str, Described],
    metadata: Mapping[str, str],
    content: Callable[[str], Iterable[bytes | memoryview]],
) -> None:
    """Write the tensors, whose bytes `content` gives by their names, in pieces. What is the same gives the
    same bytes.
    """
    names = sorted(tensors, key=lambda name: (-WIDE.get(tensors[name].dtype, 1), name))  # each lies aligned
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
    begin = 0
    for name in names:
        end = begin + tensors[name].size
        header[name] = {
            "dtype": tensors[name].dtype,
            "shape": list(tensors[name].shape),
            "data_offsets": [begin, end],
        }
        begin = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            for piece in content(name):
                out.write(piece)
        out.flush()
        os.fsync(out.fileno())  # whole on the disk before anybody renames it, or what holds it
