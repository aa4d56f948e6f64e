"""The safetensors container: what its header says, and its tensors' values a piece at a time, by numpy."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from expunge.core.delta_format.errors import BadDelta, Fault

if TYPE_CHECKING:
    import numpy as np

CHUNK = 1 << 22  # values looked at in one go
# As numpy names them, which is imported where values are read: headers are read by all programs
FLOATS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "F8_E4M3": "u1", "F8_E5M2": "u1"}
# Of types that numpy lacks, which are looked at as bits: where all of these are set, there is no number
EXPONENTS = {"BF16": 0x7F80, "F8_E4M3": 0x7F, "F8_E5M2": 0x7C}


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor as the header describes it; its bytes are `start` to `end` of the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True)
class Container:
    """A .safetensors file whose header has been read."""

    path: Path
    tensors: dict[str, Entry]
    metadata: dict[str, str]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: entry.shape for name, entry in self.tensors.items()}

    def last_byte(self, name: str) -> int:
        with self.path.open("rb") as file:
            file.seek(self.tensors[name].end - 1)
            return file.read(1)[0]

    def is_finite(self, name: str) -> bool:
        """Whether a tensor of one of FLOATS holds neither NaN nor infinity, as float32 too, which it is
        loaded as.
        """
        import numpy as np

        entry = self.tensors[name]
        exponent = EXPONENTS.get(entry.dtype)
        for part in self._pieces(entry):
            if exponent is not None:
                good = (part & exponent) != exponent
            else:
                with np.errstate(over="ignore"):
                    good = np.isfinite(part.astype(np.float32, copy=False))
            if not bool(good.all()):
                return False
        return True

    def _pieces(self, entry: Entry) -> "Iterator[np.ndarray[Any, Any]]":
        import numpy as np

        dtype = np.dtype(FLOATS[entry.dtype])
        count = (entry.end - entry.start) // dtype.itemsize
        values = np.memmap(self.path, dtype=dtype, mode="r", offset=entry.start, shape=(count,))
        for i in range(0, count, CHUNK):
            yield values[i : i + CHUNK]


def read_container(path: Path, max_header: int | None = None) -> Container:
    """Read a file's header, of at most `max_header` bytes; the library checks the container first.

    Raises: BadDelta where it is not a safetensors file.
    """
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        most = path.stat().st_size - 8
        if not 2 <= size <= min(most, max_header or most):
            why = "is not a safetensors file: it does not begin with a safetensors header"
            raise BadDelta(Fault.CONTAINER, None, why)
        text = file.read(size)
    try:
        with safe_open(path, framework="numpy"):
            found = json.loads(text)
    except (SafetensorError, ValueError, RecursionError) as error:
        why = f"is not a safetensors file: its container is broken ({str(error)[:200]})"
        raise BadDelta(Fault.CONTAINER, None, why) from error
    metadata, begin = found.pop("__metadata__", {}), 8 + size
    tensors = dict[str, Entry]()
    for name, said in found.items():
        start, end = said["data_offsets"]
        tensors[name] = Entry(said["dtype"], tuple(said["shape"]), begin + start, begin + end)
    return Container(path, tensors, metadata)
