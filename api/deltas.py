"""Vet an uploaded LoRA delta without torch: container, names, shapes, finite values. The worker checks once more before it loads it."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

import core
from api.problems import FieldError, Problem

KEY = re.compile(
    r"^(unet|transformer|text_encoder|text_encoder_2)\.([A-Za-z0-9_.]+?)\.(lora_A|lora_B|lora\.down|lora\.up|alpha)(?:\.weight)?$"
)
FLOATS: dict[str, Any] = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16}
CHUNK = 1 << 22  # values looked at in one go
MAX_HEADER = 16 << 20  # bytes; a delta names some thousand tensors
MAX_RANK = 1024
MAX_FAULTS = 8

Header = dict[str, dict[str, Any]]


def bad(message: str, remedy: str | None = None, field: str = "body") -> Problem:
    detail = f"{message}{': ' + remedy if remedy else ''}."
    return Problem("invalid_delta", detail, errors=[FieldError(field=field, message=message, remedy=remedy)])


def header(path: Path) -> tuple[Header, int]:
    """Tensor name -> {dtype, shape, data_offsets}, and where the data begins; the library checks the container first."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if not 2 <= size <= min(MAX_HEADER, path.stat().st_size - 8):
            raise bad("the upload is not safetensors", "save the LoRA with safetensors; pickle files (.bin, .pt, .ckpt) are never read")
        text = file.read(size)
    try:
        with safe_open(path, framework="numpy"):
            pass
        found = json.loads(text)
    except (SafetensorError, ValueError, RecursionError) as error:
        raise bad(
            "the upload is not safetensors", "save the LoRA with safetensors; pickle files (.bin, .pt, .ckpt) are never read"
        ) from error
    found.pop("__metadata__", None)
    return found, 8 + size


def directory(source: str) -> Path | None:
    """Where a model's files lie, for a bundled model or a local directory; None for one that only the workers hold."""
    if source.startswith("bundled:"):
        return Path(core.__path__[0]) / "bundled" / source.removeprefix("bundled:")
    folder = Path(source)
    return folder if folder.is_dir() else None


def weights(folder: Path, component: str) -> dict[str, list[int]]:
    """Module name -> shape of its weight, from the headers of a component's safetensors files."""
    shapes: dict[str, list[int]] = {}
    for file in sorted((folder / component).glob("*.safetensors")):
        for name, entry in header(file)[0].items():
            if name.endswith(".weight") and len(entry["shape"]) in (2, 4):
                shapes[name.removesuffix(".weight")] = entry["shape"]
    return shapes


def fits(kind: str, shape: list[int], weight: list[int]) -> bool:
    """Whether one half of an adapter matches the weight it adapts: A is (r, in, …), B is (out, r, …)."""
    if len(shape) != len(weight):
        return False
    if kind in ("lora_A", "lora.down"):
        return shape[1:] == weight[1:]
    return shape[0] == weight[0] and all(n == 1 for n in shape[2:])


def pairs(tensors: Header) -> dict[tuple[str, str], dict[str, list[int]]]:
    """(component, module) -> {kind: shape}; refuses a name that no LoRA has."""
    found: dict[tuple[str, str], dict[str, list[int]]] = {}
    for name, entry in tensors.items():
        match = KEY.match(name)
        if not match:
            raise bad(
                f"'{name[:200]}' is not a LoRA key",
                "keys look like 'unet.<module>.lora_A.weight', as diffusers' save_lora_weights writes them",
            )
        if entry["dtype"] not in FLOATS:
            raise bad(f"'{name}' has dtype {entry['dtype']}", f"use one of {', '.join(FLOATS)}")
        found.setdefault((match[1], match[2]), {})[match[3]] = entry["shape"]
    if not found:
        raise bad("the upload holds no tensors", "send the LoRA's weights")
    return found


def check_fit(tensors: Header, folder: Path, model: str) -> None:
    """Refuse modules that the model lacks, and shapes that do not match its weights."""
    faults: list[FieldError] = []
    shapes: dict[str, dict[str, list[int]]] = {}
    for (component, module), halves in pairs(tensors).items():
        weight = shapes.setdefault(component, weights(folder, component)).get(module)
        if weight is None:
            faults.append(FieldError(field=f"{component}.{module}", message=f"model '{model}' has no such layer"))
            continue
        for kind, shape in halves.items():
            if kind != "alpha" and not fits(kind, shape, weight):
                faults.append(FieldError(field=f"{component}.{module}.{kind}", message=f"shape {shape} does not fit the model's {weight}"))
    if faults:
        raise Problem(
            "invalid_delta",
            f"The delta does not fit the model '{model}': {faults[0].field}: {faults[0].message}.",
            errors=faults[:MAX_FAULTS],
        )


def check_pairs(tensors: Header) -> None:
    """Refuse an adapter with one half, or whose halves differ in rank."""
    for (component, module), halves in pairs(tensors).items():
        down, up = halves.get("lora_A", halves.get("lora.down")), halves.get("lora_B", halves.get("lora.up"))
        if not down or not up or len(up) < 2 or down[0] != up[1] or not 1 <= down[0] <= MAX_RANK:
            raise bad(f"the layer needs lora_A (r, in) and lora_B (out, r) of one rank, at most {MAX_RANK}", field=f"{component}.{module}")


def check_finite(path: Path, tensors: Header, start: int) -> None:
    """Refuse NaN and infinity, a few million values at a time."""
    for name, entry in tensors.items():
        first, last = entry["data_offsets"]
        if first == last:
            raise bad("is empty", field=name)
        values = np.memmap(
            path,
            dtype=np.dtype(FLOATS[entry["dtype"]]).newbyteorder("<"),
            mode="r",
            offset=start + first,
            shape=(int(np.prod(entry["shape"])),),
        )
        for i in range(0, values.size, CHUNK):
            part = values[i : i + CHUNK]
            good = (part & 0x7F80) != 0x7F80 if entry["dtype"] == "BF16" else np.isfinite(part)
            if not bool(good.all()):
                raise bad("holds NaN or infinity", "the training that made it diverged; send finite weights", field=name)


def check(path: Path, source: str, model: str) -> None:
    """Refuse an upload that is not a usable LoRA delta of the model."""
    tensors, start = header(path)
    check_pairs(tensors)
    folder = directory(source)
    if folder is not None:
        check_fit(tensors, folder, model)
    check_finite(path, tensors, start)
