"""Vet an uploaded delta, a LoRA or a sparse mask, without torch: container, names, shapes, finite values.

The worker checks once more before it loads it.
"""

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from expunge.api.problems import KINDS, FieldError, Problem
from expunge.core import lora_format
from expunge.core.adapter_config import NotPlain
from expunge.core.lora_format import Pair
from expunge.core.sources import folder_of

MASKED = re.compile(r"(unet\.[A-Za-z0-9_.]+)\.pruned")
FLOATS: dict[str, Any] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": np.uint16,
    "F8_E4M3": np.uint8,
    "F8_E5M2": np.uint8,
}
# Of types that numpy lacks: where all of these bits are set, there is no number
EXPONENTS = {"BF16": 0x7F80, "F8_E4M3": 0x7F, "F8_E5M2": 0x7C}
CHUNK = 1 << 22  # values looked at in one go
# Bytes, which take some twenty times as many of memory; a delta names some thousand tensors
MAX_HEADER = 4 << 20
MAX_FAULTS = 8
FILE = "pytorch_lora_weights.safetensors"

Header = dict[str, dict[str, Any]]
Shape = list[int]


def refuse(code: str, field: str, message: str, remedy: str | None = None) -> Problem:
    remedy = remedy or KINDS[code].remedy
    return Problem(
        code,
        f"{field}: {message}. {remedy}",
        errors=[FieldError(field=field, message=message, remedy=remedy)],
    )


def header(path: Path) -> tuple[Header, dict[str, str], int]:
    """Tensor name -> {dtype, shape, data_offsets}, the metadata, and where the data begins; the library
    checks the container first.
    """
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if not 2 <= size <= min(MAX_HEADER, path.stat().st_size - 8):
            raise refuse("not_safetensors", "body", "it does not begin with a safetensors header")
        text = file.read(size)
    try:
        with safe_open(path, framework="numpy"):
            found = json.loads(text)
    except (SafetensorError, ValueError, RecursionError) as error:
        raise refuse(
            "not_safetensors", "body", f"the safetensors container is broken ({str(error)[:200]})"
        ) from error
    return found, found.pop("__metadata__", {}), 8 + size


def directory(source: str) -> Path | None:
    """Where a model's files lie, for a bundled model or a local directory; None for one that only the
    workers hold.
    """
    return folder_of(source)


def layers(folder: Path) -> dict[str, Shape]:
    """Layer name, as `unet.…` or `text_encoder.…`, -> shape of its weight, from the headers of the model's
    safetensors files.
    """
    shapes: dict[str, Shape] = {}
    for part in ("unet", "text_encoder"):
        for file in sorted((folder / part).glob("*.safetensors")):
            weights = {
                name: entry["shape"] for name, entry in header(file)[0].items() if name.endswith(".weight")
            }
            shapes |= {
                f"{part}.{lora_format.flat(part, name.removesuffix('.weight'))}": shape
                for name, shape in weights.items()
            }
    return shapes


def pairs_of(metadata: dict[str, str], tensors: Header) -> dict[str, Pair]:
    """The LoRA's layers; refuses names, settings, types and halves that no LoRA has."""
    for name, entry in tensors.items():
        if entry["dtype"] not in FLOATS:
            raise refuse(
                "delta_does_not_fit",
                name[:200] or "body",
                f"has dtype {entry['dtype']}, not one of {', '.join(FLOATS)}",
            )

    try:  # an alpha's value is of no matter here: whether it is finite is looked at with the others
        return lora_format.read(
            metadata, {name: entry["shape"] for name, entry in tensors.items()}, lambda _: 1.0
        )
    except NotPlain as error:
        raise refuse("delta_does_not_fit", error.field, error.message, error.remedy) from error


def check_fit(pairs: dict[str, Pair], tensors: Header, folder: Path, model: str) -> None:
    """Refuse layers that the model lacks, and shapes that do not match its weights (out, in, …)."""
    wrong = lora_format.misfits(
        pairs, {name: entry["shape"] for name, entry in tensors.items()}, layers(folder)
    )
    faults = [
        FieldError(field=layer, message=why.replace("the model", f"model '{model}'", 1))
        for layer, why in wrong.items()
    ]
    if faults:
        more = f" (and {len(faults) - 1} more layers)" if len(faults) > 1 else ""
        detail = f"{faults[0].field}: {faults[0].message}{more}. {KINDS['delta_does_not_fit'].remedy}"
        raise Problem("delta_does_not_fit", detail, errors=faults[:MAX_FAULTS])


def check_mask(path: Path, tensors: Header, start: int, folder: Path | None, model: str) -> None:
    """Refuse a sparse mask whose names, type or sizes are not those of the model's layers: a bit for each
    weight, eight to a byte.
    """
    data = np.memmap(path, dtype=np.uint8, mode="r")
    shapes = layers(folder) if folder is not None else None
    for name, entry in tensors.items():
        match = MASKED.fullmatch(name)
        if not match:
            raise refuse(
                "delta_does_not_fit",
                name[:200] or "body",
                "is not named unet.<layer>.pruned, as the others of this sparse mask are",
            )
        if entry["dtype"] != "U8" or len(entry["shape"]) != 1:
            raise refuse("delta_does_not_fit", name, f"is {entry['dtype']} {entry['shape']}, not a row of U8")
        if shapes is None:
            continue
        if match[1] not in shapes:
            raise refuse("delta_does_not_fit", match[1], f"model '{model}' has no such layer")
        weight = shapes[match[1]]
        if entry["shape"][0] != -(-math.prod(weight) // 8):
            raise refuse(
                "delta_does_not_fit",
                match[1],
                f"{entry['shape'][0]} bytes are no mask of model '{model}', whose weight is {weight}",
            )
        if int(data[start + entry["data_offsets"][1] - 1]) & (1 << (-math.prod(weight) % 8)) - 1:
            raise refuse("delta_does_not_fit", name, "has bits behind its last weight")


def check_finite(path: Path, tensors: Header, start: int) -> None:
    """Refuse NaN and infinity, a few million values at a time; types that numpy lacks are looked at as
    bits.
    """
    for name, entry in tensors.items():
        dtype, bits = np.dtype(FLOATS[entry["dtype"]]).newbyteorder("<"), EXPONENTS.get(entry["dtype"])
        count = (entry["data_offsets"][1] - entry["data_offsets"][0]) // dtype.itemsize
        values = np.memmap(
            path, dtype=dtype, mode="r", offset=start + entry["data_offsets"][0], shape=(count,)
        )
        for i in range(0, count, CHUNK):
            part = values[i : i + CHUNK]
            finite = np.isfinite(part) if bits is None else (part & bits) != bits
            if not bool(finite.all()):
                raise refuse("delta_not_finite", name, "holds NaN or infinity")


def check(path: Path, source: str, model: str) -> None:
    """Refuse an upload that is not a usable delta of the model."""
    tensors, metadata, start = header(path)
    folder = directory(source)
    if any(MASKED.fullmatch(name) for name in tensors):
        check_mask(path, tensors, start, folder, model)
        return
    pairs = pairs_of(metadata, tensors)
    if folder is not None:
        check_fit(pairs, tensors, folder, model)
    check_finite(path, tensors, start)
