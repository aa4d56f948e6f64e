"""Vet an uploaded delta, a LoRA or a sparse mask, without torch: container, names, shapes, finite values. The worker checks once more before it loads it."""

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from api.problems import KINDS, FieldError, Problem
from core import adapter_config
from core.sources import folder_of

KEY = re.compile(r"(unet|text_encoder)\.([A-Za-z0-9_.]+)\.lora_([AB])\.weight")
MASKED = re.compile(r"(unet\.[A-Za-z0-9_.]+)\.pruned")
FLOATS: dict[str, Any] = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16}
CHUNK = 1 << 22  # values looked at in one go
MAX_HEADER = 16 << 20  # bytes; a delta names some thousand tensors
MAX_FAULTS = 8
FILE = "pytorch_lora_weights.safetensors"

Header = dict[str, dict[str, Any]]
Shape = list[int]


def refuse(code: str, field: str, message: str) -> Problem:
    remedy = KINDS[code].remedy
    return Problem(code, f"{field}: {message}. {remedy}", errors=[FieldError(field=field, message=message, remedy=remedy)])


def header(path: Path) -> tuple[Header, int]:
    """Tensor name -> {dtype, shape, data_offsets}, and where the data begins; the library checks the container first."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if not 2 <= size <= min(MAX_HEADER, path.stat().st_size - 8):
            raise refuse("not_safetensors", "body", "it does not begin with a safetensors header")
        text = file.read(size)
    try:
        with safe_open(path, framework="numpy"):
            found = json.loads(text)
    except (SafetensorError, ValueError, RecursionError) as error:
        raise refuse("not_safetensors", "body", f"the safetensors container is broken ({str(error)[:200]})") from error
    check_config(found.pop("__metadata__", {}), found)
    return found, 8 + size


def check_config(metadata: dict[str, str], tensors: Header) -> None:
    """Refuse what the file says of its adapter, where it says something, unless it is a plain LoRA's and of these tensors."""
    if adapter_config.KEY in metadata:
        try:
            adapter_config.check(metadata[adapter_config.KEY], {name: entry["shape"] for name, entry in tensors.items()})
        except ValueError as error:
            field, _, message = str(error).partition(": ")
            raise refuse("delta_does_not_fit", field, message) from error


def directory(source: str) -> Path | None:
    """Where a model's files lie, for a bundled model or a local directory; None for one that only the workers hold."""
    return folder_of(source)


def layers(folder: Path) -> dict[str, Shape]:
    """Layer name, as `unet.…` or `text_encoder.…`, -> shape of its weight, from the headers of the model's safetensors files."""
    shapes: dict[str, Shape] = {}
    for part in ("unet", "text_encoder"):
        for file in sorted((folder / part).glob("*.safetensors")):
            weights = {name: entry["shape"] for name, entry in header(file)[0].items() if name.endswith(".weight")}
            shapes |= {f"{part}.{flat(name.removesuffix('.weight'))}": shape for name, shape in weights.items()}
    return shapes


def flat(layer: str) -> str:
    """A text encoder's layer without the prefix that some versions of transformers give it."""
    return layer.removeprefix("text_model.")


def adapters(tensors: Header) -> dict[str, dict[str, Shape]]:
    """Layer -> {"A": (r, in, …), "B": (out, r, …)}; refuses names, dtypes and halves that no LoRA has."""
    found: dict[str, dict[str, Shape]] = {}
    for name, entry in tensors.items():
        match = KEY.fullmatch(name)
        if not match:
            raise refuse(
                "delta_does_not_fit",
                name[:200] or "body",
                "is not named unet.<layer>.lora_A.weight or lora_B.weight (or text_encoder.<layer>.…)",
            )
        if entry["dtype"] not in FLOATS:
            raise refuse("delta_does_not_fit", name, f"has dtype {entry['dtype']}, not one of {', '.join(FLOATS)}")
        found.setdefault(f"{match[1]}.{flat(match[2])}", {})[match[3]] = entry["shape"]
    if not found:
        raise refuse("delta_does_not_fit", "body", "it holds no tensors")
    for layer, halves in found.items():
        down, up = halves.get("A", []), halves.get("B", [])
        if len(down) < 2 or len(up) < 2 or down[0] != up[1] or 0 in (*down, *up):
            raise refuse("delta_does_not_fit", layer, "needs lora_A (r, in) and lora_B (out, r) of one rank")
    return found


def check_fit(found: dict[str, dict[str, Shape]], folder: Path, model: str) -> None:
    """Refuse layers that the model lacks, and shapes that do not match its weights (out, in, …)."""
    shapes, faults = layers(folder), list[FieldError]()
    for layer, halves in found.items():
        down, up, weight = halves["A"], halves["B"], shapes.get(layer)
        if weight is None:
            faults.append(FieldError(field=layer, message=f"model '{model}' has no such layer"))
        elif [up[0], *down[1:]] != weight or any(n != 1 for n in up[2:]):
            faults.append(
                FieldError(field=layer, message=f"lora_A {down} and lora_B {up} do not fit model '{model}', whose weight is {weight}")
            )
    if faults:
        more = f" (and {len(faults) - 1} more layers)" if len(faults) > 1 else ""
        detail = f"{faults[0].field}: {faults[0].message}{more}. {KINDS['delta_does_not_fit'].remedy}"
        raise Problem("delta_does_not_fit", detail, errors=faults[:MAX_FAULTS])


def check_mask(path: Path, tensors: Header, start: int, folder: Path | None, model: str) -> None:
    """Refuse a sparse mask whose names, type or sizes are not those of the model's layers: a bit for each weight, eight to a byte."""
    data = np.memmap(path, dtype=np.uint8, mode="r")
    shapes = layers(folder) if folder is not None else None
    for name, entry in tensors.items():
        match = MASKED.fullmatch(name)
        if not match:
            raise refuse(
                "delta_does_not_fit", name[:200] or "body", "is not named unet.<layer>.pruned, as the others of this sparse mask are"
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
                "delta_does_not_fit", match[1], f"{entry['shape'][0]} bytes are no mask of model '{model}', whose weight is {weight}"
            )
        if int(data[start + entry["data_offsets"][1] - 1]) & (1 << (-math.prod(weight) % 8)) - 1:
            raise refuse("delta_does_not_fit", name, "has bits behind its last weight")


def check_finite(path: Path, tensors: Header, start: int) -> None:
    """Refuse NaN and infinity, a few million values at a time; BF16 is looked at as bits, numpy has no such type."""
    for name, entry in tensors.items():
        dtype = np.dtype(FLOATS[entry["dtype"]]).newbyteorder("<")
        count = (entry["data_offsets"][1] - entry["data_offsets"][0]) // dtype.itemsize
        values = np.memmap(path, dtype=dtype, mode="r", offset=start + entry["data_offsets"][0], shape=(count,))
        for i in range(0, count, CHUNK):
            part = values[i : i + CHUNK]
            finite = (part & 0x7F80) != 0x7F80 if entry["dtype"] == "BF16" else np.isfinite(part)
            if not bool(finite.all()):
                raise refuse("delta_not_finite", name, "holds NaN or infinity")


def check(path: Path, source: str, model: str) -> None:
    """Refuse an upload that is not a usable delta of the model."""
    tensors, start = header(path)
    if any(MASKED.fullmatch(name) for name in tensors):
        check_mask(path, tensors, start, directory(source), model)
        return
    found = adapters(tensors)
    folder = directory(source)
    if folder is not None:
        check_fit(found, folder, model)
    check_finite(path, tensors, start)
