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
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
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
    plain = {k: v for k, v in metadata.items() if k != keys.ADAPTER_SETTINGS and not k.startswith("ss_")}
    if to is Format.DIFFUSERS:
        settings = json.dumps(lora.peft_settings(pairs), sort_keys=True)
        more = {"format": "pt", keys.ADAPTER_SETTINGS: settings, keys.IMPLEMENTATION: "diffusers"}
        return serialise(lora_factors.renamed(tensors, pairs), plain | more)

    out = dict[str, Tensor]()
    for whole, pair in pairs.items():
        component, _, layer = whole.partition(".")
        out[kohya.tensor_name(component, layer, "A")] = tensors[pair.down]
        out[kohya.tensor_name(component, layer, "B")] = tensors[pair.up]
        out[kohya.tensor_name(component, layer, "alpha")] = torch.tensor(pair.scale * pair.rank)
    return serialise(out, plain | kohya_metadata(pairs, metadata.get(keys.ARCHITECTURE, "")))


def kohya_metadata(pairs: Mapping[str, lora.Pair], architecture: str) -> dict[str, str]:
    """What kohya's tools write beside the tensors, as far as readers use it."""
    ranks, alphas = ({f(pair) for pair in pairs.values()} for f in (rank_of, alpha_of))
    base = kohya.BASES.get(architecture.partition("/")[0])
    return {
        "ss_network_module": "networks.lora",
        "ss_network_dim": ranks.pop() if len(ranks) == 1 else "Dynamic",
        "ss_network_alpha": alphas.pop() if len(alphas) == 1 else "Dynamic",
        **({"ss_base_model_version": base} if base else {}),
        keys.IMPLEMENTATION: "kohya",
        keys.USAGE_HINT: KOHYA_HINT,
    }


def rank_of(pair: lora.Pair) -> str:
    return str(pair.rank)


def alpha_of(pair: lora.Pair) -> str:
    return str(pair.scale * pair.rank)


def convert_file(file: Path, to: Format) -> bytes:
    """As `convert`, of a file. Raises: BadDelta."""
    try:
        with safe_open(file, "pt") as opened:
            metadata = opened.metadata() or {}
        return convert(load_file(file), metadata, to)
    except (SafetensorError, OSError) as error:
        raise BadDelta(Fault.CONTAINER, None, f"is not a safetensors file ({error})") from error


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
    except CoreError as error:
        typer.secho(f"✗ {error.message}", fg="red", err=True)
        sys.exit(1)
    typer.secho(f"✓ {out}, in {to}'s names", fg="green")


if __name__ == "__main__":
    typer.run(main)
