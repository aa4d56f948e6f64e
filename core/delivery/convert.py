"""`expunge convert FILE OUT`: a LoRA's file from one tool's names to another's, with nothing lost.

diffusers: `unet.<layer>.lora_A.weight`, the settings in the metadata. kohya: `lora_unet_….lora_down.weight`
and alpha tensors, as A1111, ComfyUI and most trainers have it. The factors stay as they are, bit by bit; what
scales them is written as the other format has it.
"""

import json
import sys
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

from expunge.core.delta_format import (
    KOHYA_FILE,
    LORA_FILE,
    BadDelta,
    Fault,
    kohya,
    lora,
    mask,
    metadata as keys,
)
from expunge.core.errors import CoreError
from expunge.core.models import lora_factors
from expunge.core.tensors import serialise

KOHYA_HINT = (
    "Load at strength 1, of model and text encoder. Without it, the base model draws the concept again."
)


REWRITTEN = (keys.ADAPTER_SETTINGS, keys.TENSORS_SHA256)  # what holds of the other format's tensors alone


class Format(StrEnum):
    """Whose names a LoRA's tensors have."""

    DIFFUSERS = "diffusers"
    KOHYA = "kohya"


def convert(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], to: Format) -> bytes:
    """The LoRA's file in the format; other metadata are kept. The same LoRA gives the same bytes.

    Raises: BadDelta where it is no LoRA.
    """
    if mask.is_mask(tensors):
        remedy = "Ask for the job's fused checkpoint (fused: true), which every tool loads."
        why = "belongs to a sparse mask, which no LoRA's format can say"
        raise BadDelta(Fault.TENSORS, next(iter(tensors)), why, remedy)
    pairs = lora_factors.read(tensors, metadata)
    plain = {k: v for k, v in metadata.items() if k not in REWRITTEN and not k.startswith("ss_")}
    if keys.IMPLEMENTATION in metadata:
        plain[keys.IMPLEMENTATION] = str(to)
    if to is Format.DIFFUSERS:
        settings = json.dumps(lora.peft_settings(pairs), sort_keys=True)
        own = {"format": "pt", keys.ADAPTER_SETTINGS: settings}
        return serialise(lora_factors.renamed(tensors, pairs), plain | own)

    out = dict[str, Tensor]()
    for whole, pair in pairs.items():
        component, _, layer = whole.partition(".")
        out[kohya.tensor_name(component, layer, "A")] = tensors[pair.down]
        out[kohya.tensor_name(component, layer, "B")] = tensors[pair.up]
        out[kohya.tensor_name(component, layer, "alpha")] = torch.tensor(alpha_of(pair))
    if keys.USAGE_HINT in metadata and keys.CONCEPTS in metadata:  # one of ours
        plain[keys.USAGE_HINT] = KOHYA_HINT
    return serialise(out, plain | kohya_metadata(pairs, metadata.get(keys.ARCHITECTURE, "")))


def kohya_metadata(pairs: Mapping[str, lora.Pair], architecture: str) -> dict[str, str]:
    """What kohya's tools write beside the tensors, as far as readers use it."""

    def one(values: set[str]) -> str:
        return next(iter(values)) if len(values) == 1 else "Dynamic"

    base = kohya.BASES.get(architecture.partition("/")[0])
    return {
        "ss_network_module": "networks.lora",
        "ss_network_dim": one({str(pair.rank) for pair in pairs.values()}),
        "ss_network_alpha": one({str(alpha_of(pair)) for pair in pairs.values()}),
        **({"ss_base_model_version": base} if base else {}),
    }


def alpha_of(pair: lora.Pair) -> float:
    """What kohya divides by the rank: of rslora too."""
    return pair.scale * pair.rank


def convert_file(file: Path, to: Format) -> bytes:
    """As `convert`, of a file. Raises: BadDelta; OSError where it cannot be read."""
    return convert(*lora_factors.read_file(file), to)


def write_kohya(folder: Path) -> None:
    """Write the LoRA of a bundle's folder in kohya's names beside it."""
    (folder / KOHYA_FILE).write_bytes(convert_file(folder / LORA_FILE, Format.KOHYA))


def main(
    file: Annotated[Path, typer.Argument(help="A LoRA's .safetensors file.")],
    out: Annotated[Path, typer.Argument(help="The file to write; one that is there is not overwritten.")],
    to: Annotated[Format, typer.Option(help="Whose names its tensors get.")] = Format.KOHYA,
) -> None:
    """Write a LoRA in another tool's names: kohya's, which A1111 and ComfyUI load, or diffusers'.

    Exit code 1 where it is no LoRA.
    """
    try:
        if out.exists():
            raise CoreError("file_exists", f"{out} is there already: name another file", field="out")
        out.write_bytes(convert_file(file, to))
    except (CoreError, OSError) as error:
        typer.secho(f"✗ {error}", fg="red", err=True)
        sys.exit(1)
    typer.secho(f"✓ {out}, in {to}'s names", fg="green")


if __name__ == "__main__":
    typer.run(main)
